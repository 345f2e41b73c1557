"""`pirl push`: folder and card follow from records, what is refused, and the upload to a hub on loopback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from lerobot.policies.xvla.modeling_xvla import XVLAPolicy

sys.path.insert(0, str(Path(__file__).parents[1] / "audit"))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit/checkpoint"))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit/evaluation"))
sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from bundle_builder import build_bundle
from checkpoint_builders import a_run, a_state, train
from eval_builders import IDENTITY, a_folder
from hub_stand_in import TOKEN, a_hub

from pirl.checkpoint.save import save_checkpoint
from pirl.cli import main
from pirl.config.policy_path import resolve_policy_path
from pirl.journal.fields import file_sha256
from pirl.publish.facts import read_facts

pytestmark = pytest.mark.integration

REPO = Path(__file__).parents[2]
UPDATES = 20
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 20 updates with one episode each of two tasks: the first tenth fails, the last succeeds."""
    root = tmp_path_factory.mktemp("push") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPO)
        run = a_run()
        train(run, 1)
        books = {"episodes": 40, "env_steps": 4000, "optimiser_steps": 60, "updates": UPDATES}
        save_checkpoint(
            root,
            state=replace(a_state(UPDATES), counters={"books": books}),
            total_steps=UPDATES,
            cfg=run.cfg,
            flow_policy=run.policy,
            algorithm=run.algorithm,
        )
    learner = root / "learner"
    learner.mkdir()
    record = {"exit_reason": "finished", "identity": {"environment": "libero/libero_10, limit 800"}}
    (learner / "run.json").write_text(json.dumps(record))
    rows = [
        {"task": task, "update": update, "success": update > 18 and task == "libero_10/0"}
        for update in range(1, UPDATES + 3)
        for task in ("libero_10/0", "libero_10/4")
    ]
    (learner / "episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(REPO)
    return Path(shutil.copytree(finished, tmp_path / "run", symlinks=True))


def of_these_weights(run: Path) -> dict:
    digest = file_sha256(next(run.glob(f"checkpoints/*/pretrained_model/{WEIGHTS}")))
    return {"policy": IDENTITY["policy"] | {"files_sha256": {WEIGHTS: digest}}}


def test_the_card_says_what_the_records_say_and_what_nobody_tested(run: Path, capsys):
    assert main(["push", str(run), "--repo-id", "me/policy", "--dry-run"]) == 0
    hub = run / "hub"
    said = capsys.readouterr().out
    assert f"  {WEIGHTS}" in said
    assert "nothing was sent" in said
    card = (hub / "README.md").read_text()
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["library_name"] == "lerobot"
    assert {"pirl", "xvla"} <= set(head["tags"])
    # Two updates are a tenth of twenty; episodes after the checkpoint's own update do not count.
    assert "| task | start: updates 1 to 2 | end: updates 19 to 20 |" in card
    assert (
        "| libero_10/0 | 0/2 (0.00 to 0.66, 95 % Wilson) | 2/2 (0.34 to 1.00, 95 % Wilson) |"
        in card
    )
    assert (
        "| libero_10/4 | 0/2 (0.00 to 0.66, 95 % Wilson) | 0/2 (0.00 to 0.66, 95 % Wilson) |"
        in card
    )
    assert "- Held-out initial states: no result of `pirl eval` was given." in card
    assert "no evidence bundle was given" in card
    assert "%" not in card.replace("95 % Wilson", "")
    record = json.loads((hub / "pirl_record.json").read_text())
    assert record["weights_sha256"] == file_sha256(hub / WEIGHTS)
    assert record["training"]["tasks"][0]["end"] == {"successes": 2, "episodes": 2}


def test_what_is_pushed_is_a_policy_that_loads_and_names_no_machine(run: Path):
    assert main(["push", str(run), "--repo-id", "me/policy", "--dry-run"]) == 0
    hub = run / "hub"
    assert resolve_policy_path({"path": str(hub)})["type"] == "xvla"
    source = next(run.glob("checkpoints/*/pretrained_model"))
    names = {p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file()}
    pushed = {p.relative_to(hub).as_posix() for p in hub.rglob("*") if p.is_file()}
    assert pushed == names | {"README.md", "pirl_record.json"}
    assert json.loads((hub / "train_config.json").read_text())["output_dir"] is None
    for file in hub.glob("*.*"):
        assert file.suffix == ".safetensors" or str(run.parent) not in file.read_text()


def test_results_before_and_after_stand_in_the_card_with_their_paired_test(
    run: Path, tmp_path: Path
):
    before = a_folder(tmp_path / "before", won={0})
    after = a_folder(tmp_path / "after", won={0, 1, 4}, identity=of_these_weights(run))
    argv = ["push", str(run), "--repo-id", "me/policy", "--dry-run"]
    assert main([*argv, "--before", str(before), "--after", str(after)]) == 0
    card = (run / "hub" / "README.md").read_text()
    assert "| overall | 1/6 (0.03 to 0.56, 95 % Wilson) | 3/6 (0.19 to 0.81, 95 % Wilson) |" in card
    assert "exact McNemar p = 0.5" in card
    assert "fewer than 50 episodes: a smoke figure" in card
    assert "no result of `pirl eval` was given" not in card


def test_a_bundle_is_verified_and_named_by_verdict_and_digest(run: Path, tmp_path: Path, capsys):
    bundle = build_bundle(tmp_path / "bundle-root").folder
    argv = ["push", str(run), "--repo-id", "me/policy", "--dry-run", "--bundle", str(bundle)]
    assert main(argv) == 0
    card = (run / "hub" / "README.md").read_text()
    assert f"digest `{file_sha256(bundle / 'manifest.json')}`" in card
    assert "The phase-2 gate on this very config: the bundle named above is of another one." in card
    with next(bundle.glob("metadata/*.json")).open("a") as file:
        file.write(" ")
    assert main([*argv, "--out", str(tmp_path / "other")]) == 1
    assert "does not hold" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_results_of_other_weights_are_refused_with_both_digests(run: Path, tmp_path: Path, capsys):
    after = a_folder(tmp_path / "after")
    argv = ["push", str(run), "--repo-id", "me/policy", "--dry-run", "--after", str(after)]
    assert main(argv) == 5
    assert "sha256 of model.safetensors" in capsys.readouterr().err
    assert not (run / "hub").exists()


def test_results_before_are_those_of_the_start_or_the_card_says_that_nobody_looked(
    run: Path, tmp_path: Path, monkeypatch, capsys
):
    before = a_folder(tmp_path / "before")
    argv = ["push", str(run), "--repo-id", "me/policy", "--dry-run", "--before", str(before)]
    assert main([*argv, "--out", str(tmp_path / "one")]) == 0
    assert "its weights were not at hand" in (tmp_path / "one" / "README.md").read_text()
    monkeypatch.setattr("pirl.publish.facts._start_weights", lambda _: "e" * 64)
    assert main([*argv, "--out", str(tmp_path / "two")]) == 5
    assert "--before = None" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_not_pushed(run: Path, capsys):
    weights = next(run.glob(f"checkpoints/*/pretrained_model/{WEIGHTS}"))
    weights.write_bytes(weights.read_bytes()[:-1])
    assert main(["push", str(run), "--repo-id", "me/policy", "--dry-run"]) == 1
    assert "is damaged and not pushed" in capsys.readouterr().err


def test_a_text_that_would_leak_stops_the_push(run: Path, capsys):
    record = json.loads((run / "learner/run.json").read_text())
    record["identity"]["environment"] = "libero in /home/somebody/assets"
    (run / "learner/run.json").write_text(json.dumps(record))
    assert main(["push", str(run), "--repo-id", "me/policy", "--dry-run"]) == 1
    assert "would leak; nothing was sent" in capsys.readouterr().err
    assert not (run / "hub").exists()


def test_a_folder_that_holds_something_is_left_alone(run: Path, capsys):
    (run / "hub").mkdir()
    (run / "hub/mine").touch()
    assert main(["push", str(run), "--repo-id", "me/policy", "--dry-run"]) == 2
    assert [p.name for p in (run / "hub").iterdir()] == ["mine"]


def test_the_facts_of_a_run_that_was_interrupted_say_so(run: Path):
    record = json.loads((run / "learner/run.json").read_text()) | {
        "exit_reason": "EnvError: at /x/y"
    }
    (run / "learner/run.json").write_text(json.dumps(record))
    assert read_facts(run).exit_reason == "EnvError"
    assert main(["push", str(run), "--repo-id", "me/policy", "--dry-run"]) == 0
    assert "The run ended early: EnvError." in (run / "hub" / "README.md").read_text()


def pushed(run: Path, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pirl.cli", "push", str(run), "--repo-id", "me/policy", *argv],
        env={
            **os.environ,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": TOKEN,
            **env,
        },
        capture_output=True,
        text=True,
        timeout=200,
        cwd=REPO,
    )


def test_the_hub_gets_the_folder_as_one_commit(run: Path):
    with a_hub() as hub:
        done = pushed(run, "--private", HF_ENDPOINT=hub.address)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == f"{hub.address}/me/policy"
        assert hub.repos == {"me/policy": True}
        assert hub.unknown == []
        assert len(hub.messages) == 1
        assert hub.messages[0].endswith(f"update {UPDATES}")
    source = next(run.glob("checkpoints/*/pretrained_model"))
    assert hub.files[WEIGHTS] == (source / WEIGHTS).read_bytes()
    assert {"README.md", "config.json", "pirl_record.json", "train_config.json"} <= set(hub.files)
    assert b"Held-out initial states" in hub.files["README.md"]
    assert not (run / "hub").exists()


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"HF_TOKEN": "hf_wrong"}, "401"),
        ({"HF_HUB_OFFLINE": "1"}, "cannot be reached"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be reached"),
    ],
)
def test_a_hub_that_refuses_or_is_not_there_is_exit_code_3_with_the_fix(run: Path, env, said):
    with a_hub() as hub:
        done = pushed(run, **({"HF_ENDPOINT": hub.address} | env))
    assert done.returncode == 3
    assert said in done.stderr
    assert "fix: " in done.stderr
    assert "Traceback" not in done.stderr
    assert hub.files == {}


def test_the_pushed_weights_are_stock_lerobot_s(run: Path):
    assert main(["push", str(run), "--repo-id", "me/policy", "--dry-run"]) == 0
    XVLAPolicy.from_pretrained(str(run / "hub"), strict=True)
