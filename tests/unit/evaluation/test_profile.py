"""What an evaluation checks before it reads weights or starts a simulator."""

from __future__ import annotations

import pytest

from pirl.config.load import load_config
from pirl.config.train import env_of
from pirl.errors import ConfigError
from pirl.evaluation.checkpoint import Protocol, prepare
from pirl.policies.xvla.tiny import tiny_metaworld_config, tiny_xvla_config

LIBERO = "configs/train_config_pirl_libero_smoke.json"
EMBEDDED = "configs/train_config_pirl_embedded.json"
PROTOCOL = Protocol(episodes_per_task=2, seed=0)


@pytest.fixture
def libero_policy(tmp_path):
    """A folder that only says which policy it is: whoever reads on finds no weights."""
    tiny_xvla_config().save_pretrained(tmp_path)
    return tmp_path


def refused(policy, cfg, protocol=PROTOCOL):
    with pytest.raises(ConfigError) as caught:
        prepare(policy, cfg, protocol=protocol, device="cpu")
    return str(caught.value)


def test_xvla_on_libero_under_relative_control_is_refused_with_the_flag(libero_policy):
    cfg = load_config(LIBERO).cfg
    env_of(cfg).control_mode = "relative"
    assert "--env.control_mode=absolute" in refused(libero_policy, cfg)


def test_each_of_several_suites_is_judged(libero_policy):
    cfg = load_config(LIBERO).cfg
    env_of(cfg).task = "libero_10,libero_gaol"
    assert "env.task = 'libero_gaol'" in refused(libero_policy, cfg)
    env_of(cfg).task = "libero_10, libero_goal"
    with pytest.raises(ConfigError, match=r"model\.safetensors"):
        prepare(libero_policy, cfg, protocol=PROTOCOL, device="cpu")


def test_libero_without_a_time_limit_is_refused_with_the_flag(libero_policy):
    cfg = load_config(LIBERO, ["--env.episode_length=null"]).cfg
    assert "--env.episode_length=800" in refused(libero_policy, cfg)


def test_the_checkpoints_policy_is_judged_not_that_of_the_config(tmp_path):
    # A MetaWorld policy in the LIBERO environment, under a config whose own policy would fit.
    tiny_metaworld_config().save_pretrained(tmp_path)
    message = refused(tmp_path, load_config(LIBERO).cfg)
    assert "the action mode has 4 real dims" in message


def test_a_config_without_the_recipe_is_refused(libero_policy):
    cfg = load_config(LIBERO).cfg
    cfg.recipe = None
    assert "recipe" in refused(libero_policy, cfg)


def test_no_episode_is_refused(tmp_path):
    tiny_metaworld_config().save_pretrained(tmp_path)
    message = refused(tmp_path, load_config(EMBEDDED).cfg, Protocol(episodes_per_task=0, seed=0))
    assert "--episodes-per-task" in message


def test_more_episodes_than_held_out_states_are_refused_on_metaworld(tmp_path):
    tiny_metaworld_config().save_pretrained(tmp_path)
    protocol = Protocol(episodes_per_task=201, seed=0)
    assert "episodes_per_task" in refused(tmp_path, load_config(EMBEDDED).cfg, protocol)


def test_a_folder_without_weights_never_gets_random_ones(tmp_path):
    tiny_metaworld_config().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"model\.safetensors"):
        prepare(tmp_path, load_config(EMBEDDED).cfg, protocol=PROTOCOL, device="cpu")
