"""A config is checked without LeRobot, and LeRobot's own classes agree with every answer."""

import json
import shutil
from copy import deepcopy
from dataclasses import dataclass

import pytest
from config_builders import CONFIGS, EMBEDDED, FLOW_NOISE, LIBERO, leaves, raw, with_value, write
from hypothesis import given
from hypothesis import strategies as st
from test_config_fuzz import FUZZ, damage

from pirl.config import installed, lerobot_fields, load, snapshot
from pirl.config.check import check_config, checked_tree, decode, read_draft
from pirl.config.identity import config_hash
from pirl.config.preflight import preflight_summary
from pirl.config.train import PiRLTrainConfig
from pirl.errors import ConfigError, EnvironmentNotReadyError
from pirl.policies.xvla.unfit import unfit_fields

HASHES = {
    "embedded": "6acf8fec0d112de30859936890e4489d0a88e41418953552b1d3ae1006b9deb3",
    "embedded_flow_noise": "207230640f3da3d2ec95806af3ad9eb655f551ebd83a12932529739cf702ccfe",
    "learn_flow_noise": "8cdd4f6d4f972258adf99a4c7f7e813702b3a5769ee6938592b481bb07d00b2c",
    "learn_flow_sde": "791dbfe3d699992394b866cd9a0ff94cdc2099aa87832a7359ed12f9c6a545ff",
    "learn_imprecise": "67c5ed6cc8a22edcf8ee3d6ecef3b13f3aa21b78211e0306ce0e6a92e3579c73",
    "libero_smoke": "d087d3ba8caa220868c23bde4b034c11c3708c80b3e897a26d4270a28c6e53d8",
}
"""What learner, actors, evidence and checkpoints of these configs compare; a change is a line of CHANGELOG.md."""


def by_lerobot(file, overrides=()):
    """The hash of what LeRobot's own classes make of a config."""
    draft = read_draft(file, overrides)
    cfg = decode(PiRLTrainConfig, checked_tree(PiRLTrainConfig, draft), draft.name)
    if cfg.policy is not None:
        try:
            deepcopy(cfg.policy).validate_features()
        except ValueError as error:
            raise ConfigError([]) from error
        # What LeRobot takes and RL cannot train.
        if unfit_fields(cfg.policy):
            raise ConfigError([])
    return config_hash(cfg)


def answer(of, *given):
    """The hash, or None for a config that is refused."""
    try:
        return of(*given)
    except (ConfigError, EnvironmentNotReadyError):
        return None


def checked_hash(*given):
    return check_config(*given).identity.hash


def agree(*given):
    mine = answer(checked_hash, *given)
    # A refused recipe has no counterpart: without one LeRobot judges alone.
    if mine is not None or read_draft(*given).has_recipe:
        assert mine == answer(by_lerobot, *given)
    return mine


def test_the_committed_fields_are_those_of_the_installed_lerobot():
    assert snapshot.generate() == snapshot.TARGET.read_text(encoding="utf-8"), (
        "read what changed in the code of `CODE`, say it in pirl/config/after_init.py, then run"
        " python -m pirl.config.snapshot"
    )


@pytest.mark.parametrize("name", HASHES)
def test_hash_of_a_shipped_config_moves_only_on_purpose(name):
    file = CONFIGS / f"train_config_pirl_{name}.json"
    assert checked_hash(file) == by_lerobot(file) == HASHES[name]


@FUZZ
@given(data=st.data(), file=st.sampled_from([EMBEDDED, FLOW_NOISE, LIBERO]))
def test_lerobot_agrees_on_a_damaged_config(data, file, tmp_path):
    tree = json.loads(json.dumps(lerobot_tree(file)))
    damage(data, tree)
    target = tmp_path / "config.json"
    target.write_text(json.dumps(tree), encoding="utf-8")
    agree(target)


def lerobot_tree(file):
    return check_config(file).tree


def near(value):
    """Texts for an override of a field that holds `value`; most of them fit its type."""
    if isinstance(value, bool):
        return st.sampled_from(["true", "false"])
    if isinstance(value, int):
        return st.integers(0, 64).map(str)
    if isinstance(value, float):
        return st.floats(0, 1).map(repr) | st.integers(0, 2).map(str)
    if isinstance(value, list):
        return st.lists(st.integers(0, 3) | st.floats(0, 0.9), max_size=3).map(json.dumps)
    return st.sampled_from(["null", "a", "runs//b/../c", "0.5", "[1, 2]", '{"repo_id": "a/b"}'])


@st.composite
def overrides(draw, file):
    fields = [(n, v) for n, v in leaves(lerobot_tree(file)) if "features" not in n and "/" not in n]
    chosen = draw(
        st.lists(st.sampled_from(fields), min_size=1, max_size=3, unique_by=lambda f: f[0])
    )
    return [f"--{name}={draw(near(value))}" for name, value in chosen]


@FUZZ
@given(data=st.data(), file=st.sampled_from([EMBEDDED, FLOW_NOISE, LIBERO]))
def test_lerobot_agrees_on_random_overrides(data, file):
    agree(file, data.draw(overrides(file)))


STATE_AS_IMAGE = {"observation.images.image": {"type": "STATE", "shape": [4]}}


@pytest.mark.parametrize(
    ("file", "name", "value", "holds"),
    [
        (EMBEDDED, "pirl.gamma", 1, True),
        (EMBEDDED, "output_dir", "runs//a/", True),
        (EMBEDDED, "policy.pretrained_path", "a//b/./c", True),
        (EMBEDDED, "eval", {"n_episodes": 3, "batch_size": 7}, True),
        (EMBEDDED, "eval", {"recording_repo_id": "a/b", "batch_size": 1}, False),
        (EMBEDDED, "eval", {"recording_repo_id": "a/b", "recording": True, "batch_size": 1}, True),
        (EMBEDDED, "dataset", {"repo_id": "a/b"}, True),
        (EMBEDDED, "dataset", {"repo_id": "a/b", "repo_type": "bucket"}, False),
        (EMBEDDED, "dataset", {"repo_id": "a/b", "repo_type": "bucket", "streaming": True}, True),
        (EMBEDDED, "dataset", {"repo_id": "a/b", "repo_type": "model"}, False),
        (EMBEDDED, "dataset", {"repo_id": "a/b", "depth_output_unit": "cm"}, False),
        (EMBEDDED, "dataset", {"repo_id": "a/b", "eval_split": 1.0}, False),
        (EMBEDDED, "dataset", {"repo_id": "a/b", "episodes": [0, 2]}, True),
        (EMBEDDED, "dataset", {"repo_id": "a/b", "episodes": [0, 0]}, False),
        (EMBEDDED, "dataset", {"repo_id": "a/b", "episodes": [-1]}, False),
        (EMBEDDED, "env.camera", "corner3", True),
        (EMBEDDED, "env.image_size", 32, True),
        (EMBEDDED, "policy.input_features", STATE_AS_IMAGE, False),
        (EMBEDDED, "policy.num_image_views", 0, False),
        (EMBEDDED, "policy.normalization_mapping", {"STATE": "IDENTITY"}, True),
        (EMBEDDED, "policy.type", "act", False),
        (EMBEDDED, "env", {"type": "pusht"}, False),
        (EMBEDDED, "optimizer", {"type": "adam"}, False),
        (LIBERO, "env.observation_height", 64, True),
        (LIBERO, "env.camera_name_mapping", {"agentview_image": "front"}, False),
        (LIBERO, "env.camera_name_mapping", {"agentview_image": "image"}, True),
        (LIBERO, "env.hard_reset", False, True),
    ],
)
def test_lerobot_agrees_on_what_its_classes_compute_or_refuse(file, name, value, holds, tmp_path):
    target = write(tmp_path, with_value(raw(file), name, value))
    assert (agree(target) is not None) is holds


@pytest.fixture
def newer_lerobot(tmp_path, monkeypatch):
    """A copy of LeRobot's config files in which the training config has one more field."""
    root = installed.lerobot_folder()
    for place in {place for places in lerobot_fields.SOURCES.values() for place in places}:
        file = place.partition(":")[0]
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / file, tmp_path / file)
    train = tmp_path / "lerobot/configs/train.py"
    text = train.read_text(encoding="utf-8")
    field = "    num_workers: int = 4\n"
    assert field in text
    train.write_text(text.replace(field, field + "    ema: bool = False\n"), encoding="utf-8")
    monkeypatch.setattr(installed, "lerobot_folder", lambda: tmp_path)
    installed.unknown_fields.cache_clear()
    yield tmp_path
    installed.unknown_fields.cache_clear()


def test_installed_lerobot_has_no_field_that_is_unknown():
    assert installed.unknown_fields() == ()
    assert installed.lerobot_note() is None


def test_new_field_of_lerobot_is_named_without_importing_it(newer_lerobot):
    assert installed.unknown_fields() == ("TrainPipelineConfig.ema",)
    assert "TrainPipelineConfig.ema" in preflight_summary(check_config(EMBEDDED))


def test_config_class_that_moved_is_named(newer_lerobot):
    (newer_lerobot / "lerobot/envs/configs.py").unlink()
    assert {"EnvConfig", "LiberoEnv"} <= set(installed.unknown_fields())


def test_process_that_would_ignore_a_new_field_of_lerobot_does_not_start(monkeypatch):
    @dataclass(kw_only=True)
    class Newer(PiRLTrainConfig):
        ema: bool = False

    monkeypatch.setattr(load, "PiRLTrainConfig", Newer)
    with pytest.raises(EnvironmentNotReadyError, match=r": ema\n") as caught:
        load.load_config(EMBEDDED)
    assert lerobot_fields.LEROBOT_VERSION in caught.value.remedy


def test_unknown_field_of_a_newer_lerobot_in_a_file_is_an_unknown_key(tmp_path):
    with pytest.raises(ConfigError, match="ema"):
        check_config(write(tmp_path, with_value(raw(), "ema", True)))


def test_checking_needs_a_recipe(tmp_path):
    tree = {"policy": {"type": "gaussian_actor"}, "seed": 3}
    with pytest.raises(ConfigError, match="LeRobot's own"):
        check_config(write(tmp_path, tree))
