"""`pirl init`: a config for a checkpoint that passes the check, and every refusal before a file is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from pirl.cli import main
from pirl.config.check import check_config
from pirl.doctor import init
from pirl.doctor.sizes import Machine, fit
from pirl.policies.xvla.tiny import tiny_xvla_config, write_tiny_checkpoint

REPO = Path(__file__).resolve().parents[3]
EMBEDDED = [
    *("--from", "configs/policies/button_press_topdown"),
    *("--env", "pirl_metaworld", "--task", "button-press-topdown-v3"),
]
LIBERO = ["--env", "libero", "--task", "libero_10"]


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(REPO)
    monkeypatch.setattr(Machine, "here", staticmethod(lambda: Machine(cores=4, memory_gib=32.0)))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `lerobot-train` leaves one: a run folder with a step in it."""
    run = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPO)
        folder = run / "checkpoints/000002/pretrained_model"
        write_tiny_checkpoint(folder, tiny_xvla_config(chunk_size=20), seed=1)
    (run / "checkpoints/last").symlink_to("000002")
    return run


def test_a_policy_of_ours_becomes_a_config_that_holds(tmp_path, capsys):
    out = tmp_path / "mine.yaml"
    assert main(["init", *EMBEDDED, "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert f"pirl launch --config_path {out} --output_dir=outputs/train/mine" in said.out
    assert main(["validate", "--config_path", str(out)]) == 0
    cfg = check_config(out).cfg
    assert (cfg.env.type, cfg.env.image_size, cfg.runtime.env_workers) == ("pirl_metaworld", 64, 4)
    assert cfg.policy.num_denoising_steps == 2
    comments = [line for line in out.read_text().splitlines() if "  # " in line]
    assert len(comments) > 12


@pytest.mark.parametrize("place", ["", "checkpoints/000002", "checkpoints/000002/pretrained_model"])
def test_a_run_of_lerobot_train_is_found_and_takes_libero_as_xvla_needs_it(
    checkpoint, place, tmp_path
):
    out = tmp_path / "config.yaml"
    assert main(["init", "--from", str(checkpoint / place), *LIBERO, "--out", str(out)]) == 0
    cfg = check_config(out).cfg
    assert (cfg.env.control_mode, cfg.env.episode_length) == ("absolute", 800)
    assert (cfg.env.observation_height, cfg.env.observation_width) == (64, 64)
    assert list(cfg.pirl.executed_dims) == list(range(10))
    assert Path(cfg.policy.pretrained_path).name == "pretrained_model"
    assert cfg.pirl.global_batch % cfg.pirl.micro_batch == 0


def test_the_device_is_the_one_that_was_asked_for(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(init, "gpu_name", lambda: None)
    out = tmp_path / "config.yaml"
    assert main(["init", "--from", str(checkpoint), *LIBERO, "--gpu", "--out", str(out)]) == 0
    runtime = check_config(out).cfg.runtime
    assert (runtime.learner_device, runtime.actor_device) == ("cuda", "cuda")
    assert "note: torch would find no CUDA device here" in capsys.readouterr().err


def test_cameras_of_other_names_are_mapped_by_order_and_that_is_said(checkpoint, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(checkpoint / "checkpoints/000002/pretrained_model", other)
    config = json.loads((other / "config.json").read_text())
    names = {"observation.images.image": "front", "observation.images.image2": "hand"}
    config["input_features"] = {
        f"observation.images.{names[n]}" if n in names else n: feature
        for n, feature in config["input_features"].items()
    }
    (other / "config.json").write_text(json.dumps(config))
    out = tmp_path / "config.yaml"
    assert main(["init", "--from", str(other), *LIBERO, "--out", str(out)]) == 0
    assert "front, hand were taken for agent view and wrist" in capsys.readouterr().err
    mapping = check_config(out).cfg.env.camera_name_mapping
    assert mapping == {"agentview_image": "front", "robot0_eye_in_hand_image": "hand"}


def test_an_existing_file_stays_as_it_is(tmp_path, capsys):
    out = tmp_path / "mine.yaml"
    out.write_text("mine")
    assert main(["init", *EMBEDDED, "--out", str(out)]) == 2
    assert out.read_text() == "mine"
    assert "--out = " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--from", "nowhere/at/all", *LIBERO], "policy.path = 'nowhere/at/all'"),
        ([*EMBEDDED[:2], *LIBERO], "policy.action_mode = 'auto'"),
        ([*EMBEDDED[:5], "buton-press-topdown-v3"], "did you mean 'button-press-topdown-v3'?"),
        ([*EMBEDDED, "--out", "x.json"], "fix: --out x.yaml"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(argv, said, tmp_path, capsys):
    argv = argv if "--out" in argv else [*argv, "--out", str(tmp_path / "config.yaml")]
    assert main(["init", *argv]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert ": 1 error\n" in err
    assert list(tmp_path.iterdir()) == []
    assert not Path("x.json").exists()


def test_another_policy_is_refused_by_its_name(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"type": "act"}))
    out = tmp_path / "config.yaml"
    assert main(["init", "--from", str(tmp_path), *LIBERO, "--out", str(out)]) == 2
    assert "(act)" in capsys.readouterr().err
    assert not out.exists()


def test_sizes_follow_memory_and_cores():
    few = SimpleNamespace(values=10**6, simulator_gib=2.6, decisions_per_episode=40)
    big = fit(Machine(cores=8, memory_gib=64), **vars(few), gpu=False)
    small = fit(Machine(cores=8, memory_gib=7), **vars(few), gpu=False)
    one = fit(Machine(cores=1, memory_gib=1), **vars(few), gpu=False)
    assert (big.env_workers, small.env_workers, one.env_workers) == (8, 1, 1)
    assert one.needed_gib > 1
    large = vars(few) | {"values": 9 * 10**8}
    on_gpu = fit(Machine(cores=8, memory_gib=64), **large, gpu=True)
    assert on_gpu.envs_per_actor == 2 * on_gpu.env_workers
    on_cpu = fit(Machine(cores=8, memory_gib=64), **large, gpu=False)
    # Five copies of the weights in float32; on a device they lie there.
    assert on_cpu.needed_gib - big.needed_gib == pytest.approx(5 * 4 * 9 * 10**8 / 2**30, rel=0.01)
    assert on_gpu.actor_lr < big.actor_lr
