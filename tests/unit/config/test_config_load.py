"""Loading: what a valid file becomes, and what overrides, folders and policy paths do to it."""

import json
from pathlib import Path

import draccus
import huggingface_hub.constants
import pytest
from config_builders import (
    CONFIGS,
    EMBEDDED,
    FLOW_NOISE,
    LIBERO,
    XVLA_LIBERO,
    raw,
    refused,
    with_value,
    write,
)
from lerobot.configs.default import DatasetConfig
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.gaussian_actor.configuration_gaussian_actor import GaussianActorConfig
from lerobot.rl.algorithms.sac.configuration_sac import SACAlgorithmConfig

from pirl.config.load import load_config, write_resolved
from pirl.config.preflight import preflight_summary
from pirl.config.train import PiRLMetaWorldEnvConfig, PiRLTrainConfig
from pirl.errors import ConfigError, EnvironmentNotReadyError, ExitCode
from pirl.policies.xvla.tiny import tiny_metaworld_config, tiny_xvla_config


@pytest.fixture
def no_hub(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def checkpoint(tmp_path):
    """A `pretrained_model` folder with the policy config of the LIBERO smoke file, and no tensor."""
    folder = tmp_path / "checkpoints" / "000003" / "pretrained_model"
    folder.mkdir(parents=True)
    policy = load_config(LIBERO).cfg.policy
    write(folder, draccus.encode(policy, PreTrainedConfig), "config.json")
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    return folder


@pytest.mark.parametrize("file", [EMBEDDED, FLOW_NOISE, LIBERO], ids=lambda f: f.stem)
def test_shipped_config_survives_writing_and_loading(file, tmp_path):
    first = load_config(file)
    second = load_config(write_resolved(first.cfg, tmp_path / "train_config.json"))
    assert second.identity.hash == first.identity.hash
    assert second.cfg == first.cfg
    again = write_resolved(second.cfg, tmp_path / "again.json")
    assert again.read_bytes() == (tmp_path / "train_config.json").read_bytes()


def test_shipped_configs_name_no_absolute_path():
    for file in CONFIGS.glob("train_config_*.json"):
        assert '"/' not in file.read_text(encoding="utf-8")
        assert json.loads(file.read_text(encoding="utf-8"))["policy"]["push_to_hub"] is False


def test_libero_smoke_policy_is_the_tiny_policy():
    expected = tiny_xvla_config("ee6d", chunk_size=20, n_action_steps=10, num_denoising_steps=5)
    assert load_config(LIBERO).cfg.policy == expected


@pytest.mark.parametrize("file", [EMBEDDED, FLOW_NOISE], ids=lambda f: f.stem)
def test_embedded_policy_is_the_tiny_metaworld_policy(file):
    assert load_config(file).cfg.policy == tiny_metaworld_config()


def test_tokenizer_of_the_shipped_configs_is_in_the_repository():
    for file in (EMBEDDED, FLOW_NOISE, LIBERO):
        name = raw(file)["policy"]["tokenizer_name"]
        assert (CONFIGS.parent / name / "tokenizer.json").is_file()


def test_values_arrive_typed():
    cfg = load_config(EMBEDDED).cfg
    assert cfg.pirl.betas == (0.9, 0.95)
    assert cfg.pirl.value_hidden == (128, 64)
    assert isinstance(cfg.env, PiRLMetaWorldEnvConfig)
    assert cfg.pirl.flow_noise is None
    assert cfg.runtime.actors == 2
    assert cfg.algorithm is None
    assert cfg.optimizer is None


def test_integer_is_taken_for_a_number(tmp_path):
    cfg = load_config(write(tmp_path, with_value(raw(), "pirl.gamma", 1))).cfg
    assert cfg.pirl.gamma == 1.0
    assert isinstance(cfg.pirl.gamma, float)


@pytest.mark.parametrize(
    "tokens",
    [["--pirl.gamma=0.5"], ["--pirl.gamma", "0.5"], ["--pirl.gamma=5e-1"]],
    ids=["equals", "blank", "exponent"],
)
def test_both_spellings_of_an_override_work(tokens):
    assert load_config(EMBEDDED, tokens).cfg.pirl.gamma == 0.5


def test_overrides_take_the_type_of_their_field():
    cfg = load_config(
        EMBEDDED,
        [
            "--job_name=7",
            "--pirl.value_hidden=[32, 16]",
            "--pirl.last_step_std.other",
            "0.2",
            "--pirl.shuffle_advantages=true",
            "--output_dir=runs/a",
            "--pirl.executed_dims=null",
            '--env.tasks=["reach-v3", "push-v3"]',
        ],
    ).cfg
    assert cfg.job_name == "7"
    assert cfg.pirl.value_hidden == (32, 16)
    assert cfg.pirl.last_step_std.other == 0.2
    assert cfg.pirl.shuffle_advantages is True
    assert cfg.output_dir == Path("runs/a")
    assert cfg.env.tasks == ["reach-v3", "push-v3"]


def test_variant_can_be_switched_on_the_command_line():
    switch = ["--pirl.variant=flow-noise", "--pirl.flow_sde=null", "--pirl.flow_noise={}"]
    cfg = load_config(EMBEDDED, switch).cfg
    assert cfg.pirl.is_flow_noise
    assert cfg.pirl.flow_noise.noise_std_range == (0.08, 0.16)


@pytest.mark.parametrize(
    "tokens",
    [
        ["pirl.gamma=0.5"],
        ["--pirl.gamma"],
        ["--pirl.gamma", "--seed=1"],
        ["--pirl.gamma=0.5", "--pirl.gamma=0.6"],
        ["--=3"],
        ["--pirl..gamma=3"],
        ["--pirl.flow_sde={"],
        ["--help"],
    ],
    ids=str,
)
def test_malformed_override_is_refused(tokens):
    assert "command line" in refused(EMBEDDED, tokens)


def test_override_of_an_unknown_field_is_refused_with_the_near_name():
    assert "gamma" in refused(EMBEDDED, ["--pirl.gama=0.5"])["pirl.gama"].fix


def test_override_text_that_is_no_number_is_refused():
    assert "number" in refused(EMBEDDED, ["--pirl.gamma=high"])["pirl.gamma"].expected


def test_checkpoint_folder_and_its_file_are_the_same_config(tmp_path):
    folder = tmp_path / "000003" / "pretrained_model"
    folder.mkdir(parents=True)
    file = write_resolved(load_config(EMBEDDED).cfg, folder / "train_config.json")
    ways = [load_config(way) for way in (file, folder, folder.parent, str(folder))]
    assert {way.source_path for way in ways} == {file}
    assert len({(way.identity.path, way.identity.hash) for way in ways}) == 1


def test_resume_points_at_the_checkpoint_and_keeps_the_hash(tmp_path):
    folder = tmp_path / "checkpoints" / "000003" / "pretrained_model"
    folder.mkdir(parents=True)
    file = write_resolved(load_config(EMBEDDED).cfg, folder / "train_config.json")
    resumed = load_config(file, ["--resume=true"])
    assert resumed.cfg.checkpoint_path == tmp_path / "checkpoints" / "000003"
    assert resumed.cfg.policy.pretrained_path is None
    assert resumed.identity == load_config(file).identity


def test_resume_outside_a_checkpoint_is_refused():
    assert "pretrained_model" in refused(EMBEDDED, ["--resume=true"])["resume"].fix


OPEN = ("--runtime.host=0.0.0.0", "--runtime.insecure=true")


def test_token_is_never_written_and_never_shown(tmp_path):
    secret = "correct-horse-battery-staple"
    cfg = load_config(EMBEDDED, [*OPEN, f"--runtime.token={secret}"]).cfg
    assert cfg.runtime.token == secret
    file = write_resolved(cfg, tmp_path / "train_config.json")
    assert secret not in file.read_text()
    assert "runtime.token" in refused(file)["runtime.host"].fix
    errors = refused(EMBEDDED, ["--runtime.token=short secret"])
    assert "short secret" not in str(errors["runtime.token"])
    errors = refused(EMBEDDED, ['--runtime.token={"value": "correct-horse"}'])
    assert "correct-horse" not in str(errors["runtime.token"])


def test_policy_path_takes_a_folder_and_keeps_overrides(checkpoint, no_hub):
    cfg = load_config(XVLA_LIBERO, [f"--policy.path={checkpoint}"]).cfg
    assert cfg.policy.pretrained_path == checkpoint
    assert cfg.policy.n_action_steps == 10
    assert cfg.policy.num_denoising_steps == 5
    assert cfg.policy.chunk_size == 20
    assert cfg.env.episode_length == 800


def test_resolved_policy_path_loads_to_the_same_hash(checkpoint, no_hub, tmp_path):
    first = load_config(XVLA_LIBERO, [f"--policy.path={checkpoint}"])
    file = write_resolved(first.cfg, tmp_path / "train_config.json")
    assert load_config(file).identity.hash == first.identity.hash


def test_hub_that_cannot_be_reached_is_not_ready(no_hub):
    with pytest.raises(EnvironmentNotReadyError) as caught:
        load_config(XVLA_LIBERO)
    assert caught.value.exit_code is ExitCode.NOT_READY
    assert "lerobot/xvla-libero" in str(caught.value)


def test_wrong_fields_come_before_an_unreachable_hub(no_hub):
    assert "pirl.gamma" in refused(XVLA_LIBERO, ["--pirl.gamma=7"])


@pytest.mark.parametrize("path", ["", "no/such/deep/folder", "a b", 7, None, ["x"]], ids=repr)
def test_policy_path_that_is_no_path_is_refused(path, tmp_path, no_hub):
    file = write(tmp_path, with_value(raw(XVLA_LIBERO), "policy.path", path))
    assert "policy.path" in refused(file)


@pytest.mark.parametrize("content", ["{", "{}", '{"type": "nobody"}', '{"type": "xvla", "zz": 1}'])
def test_policy_folder_with_a_bad_config_is_refused(content, tmp_path, no_hub):
    write(tmp_path, content, "config.json")
    assert "policy.path" in refused(XVLA_LIBERO, [f"--policy.path={tmp_path}"])


def test_policy_path_beside_a_type_is_refused(tmp_path, no_hub):
    file = write(tmp_path, with_value(raw(XVLA_LIBERO), "policy.type", "xvla"))
    assert "policy.type" in refused(file)["policy.path"].fix


def test_summary_names_what_a_run_is():
    loaded = load_config(LIBERO, ["--runtime.token=correct-horse-battery"])
    text = preflight_summary(loaded)
    for part in (
        "pi-rl",
        "flow-sde",
        "xvla",
        loaded.identity.path,
        loaded.identity.hash,
        "libero_10",
        "1000",
        "K = 5",
        "E = 10",
        "sync",
        "1 actor",
    ):
        assert part in text
    assert "correct-horse" not in text


def test_without_recipe_lerobots_own_validation_runs(monkeypatch):
    monkeypatch.setattr("sys.argv", ["learner"])
    cfg = PiRLTrainConfig(
        dataset=DatasetConfig(repo_id="a/b", video_backend="pyav"),
        policy=GaussianActorConfig(push_to_hub=False),
    )
    cfg.validate()
    assert isinstance(cfg.algorithm, SACAlgorithmConfig)
    assert cfg.algorithm.policy_config is cfg.policy
    assert cfg.optimizer is not None


def test_with_recipe_nothing_of_sac_is_filled_in():
    cfg = load_config(EMBEDDED).cfg
    cfg.validate()
    assert cfg.algorithm is None
    assert cfg.optimizer is None
    cfg.algorithm = SACAlgorithmConfig()
    with pytest.raises(ConfigError) as caught:
        cfg.validate()
    assert [error.field for error in caught.value.errors] == ["algorithm"]


def test_config_without_recipe_loads_as_lerobots(tmp_path):
    sac = {"policy": {"type": "gaussian_actor", "push_to_hub": False}, "seed": 3}
    loaded = load_config(write(tmp_path, sac))
    assert loaded.cfg.recipe is None
    assert loaded.cfg.algorithm is None
    assert "SAC" in preflight_summary(loaded)


@pytest.mark.parametrize(
    "section", [{"pirl": {"gamma": 0.9}}, {"runtime": {"actors": 4}}, {"pirl": {"flow_sde": {}}}]
)
def test_forgotten_recipe_does_not_become_a_sac_run(section, tmp_path):
    sac = {"policy": {"type": "gaussian_actor"}, **section}
    assert "recipe=pi-rl" in refused(write(tmp_path, sac))["recipe"].fix


def test_embedded_environment_sends_lerobots_commands_away():
    with pytest.raises(ConfigError, match="driven by pirl"):
        load_config(EMBEDDED).cfg.env.create_envs(1)


def test_embedded_environment_refuses_features_it_would_replace(tmp_path):
    features = {"action": {"type": "ACTION", "shape": [7]}}
    file = write(tmp_path, with_value(raw(), "env.features", features))
    assert "env" in refused(file)


def test_error_of_lerobots_own_check_names_the_section(tmp_path):
    tree = with_value(with_value(raw(LIBERO), "env.hard_reset", False), "env.init_states", True)
    tree = with_value(tree, "eval.batch_size", 1)
    tree = with_value(tree, "eval.recording_repo_id", "a/b")
    assert "recording" in refused(write(tmp_path, tree))["eval"].expected


def test_default_eval_batch_does_not_follow_the_core_count(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    assert load_config(EMBEDDED).cfg.eval.batch_size == 1
