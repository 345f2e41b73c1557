"""Rewards: the environment's own, a shaped one, LeRobot's classifier; bounded, checked, part of identity."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rollout_toys import EXECUTED, CountingEnv, StatePolicy, a_recipe
from transformers import ViTConfig, ViTModel

from pirl import doors
from pirl.config.check import check_config
from pirl.config.kinds import admit
from pirl.config.load import load_config
from pirl.envs.base import EnvInfo, EnvObservation
from pirl.envs.split import StateRule, StateSplit
from pirl.errors import CheckpointError, ConfigError, NumericsError
from pirl.runtime.rewards import (
    BoundedReward,
    ExecutedChunk,
    TimeCostConfig,
    bound_of,
    build_reward,
    identity_of_reward,
)
from pirl.runtime.rollout import Placement, RolloutCollector

EMBEDDED = "configs/train_config_pirl_embedded.json"
IMAGE = "observation.images.image"
ENV = EnvInfo(
    kind="toy",
    task_names=("push",),
    instructions=("push it",),
    action_width=2,
    state_width=2,
    image_shapes={},
    max_control_steps={0: 10},
    sim_steps_per_action=1,
    reset_mode="seeded",
    max_step_reward=2.0,
)


def seen(pixel=0):
    return EnvObservation(
        images={IMAGE: np.full((3, 32, 32), pixel, dtype=np.uint8)},
        state=np.zeros(2, dtype=np.float32),
    )


def a_chunk(*rewards, valid=None, pixel=0):
    rows = np.array(rewards, dtype=np.float32)
    return ExecutedChunk(
        before=seen(),
        after=seen(pixel),
        actions=np.zeros((len(rows), 2), dtype=np.float32),
        step_rewards=rows,
        valid_steps=len(rows) if valid is None else valid,
        terminated=False,
        truncated=False,
        instruction="push it",
    )


def a_cfg(reward_model=None):
    # As every loader does: a class has its name from then on.
    admit({"reward_model": {"type": "time_cost"}})
    return SimpleNamespace(reward_model=reward_model)


def test_a_config_without_a_reward_pays_what_the_environment_says():
    reward = build_reward(a_cfg(), ENV)
    assert (reward.name, reward.bound, bound_of(a_cfg(), ENV)) == ("success", 2.0, 2.0)
    assert reward(a_chunk(0, 1, 0)).tolist() == [0, 1, 0]


def test_time_cost_takes_its_part_of_every_row_that_ran_and_widens_the_bound():
    cfg = a_cfg(TimeCostConfig(cost=0.25))
    reward = build_reward(cfg, ENV)
    assert reward(a_chunk(0, 1, 0, valid=2)).tolist() == [-0.25, 0.75, 0]
    assert bound_of(cfg, ENV) == 2.25
    assert identity_of_reward(cfg) == "time_cost cost=0.25"
    given = a_chunk(0, 1)
    reward(given)
    assert given.step_rewards.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ([0.0, 1.5], "1.5 in row 1"),
        ([-1.5, 0.0], "-1.5 in row 0"),
        ([float("nan"), 0.0], "nan in row 0"),
        ([0.0], "shape"),
        ([[0.0, 0.0]], "shape"),
    ],
)
def test_a_reward_that_leaves_its_bound_ends_the_actor(answer, says):
    reward = BoundedReward(name="bad", bound=1.0, reward=lambda _: np.array(answer))
    with pytest.raises(NumericsError, match=says):
        reward(a_chunk(0, 0))


def test_a_reward_for_a_row_that_did_not_run_is_refused():
    reward = BoundedReward(name="late", bound=1.0, reward=lambda _: np.array([0.0, 0.5]))
    with pytest.raises(NumericsError, match="row 1 of 1 that ran, must be 0"):
        reward(a_chunk(0, 0, valid=1))


def test_a_rollout_carries_the_reward_and_its_record_keeps_the_success():
    asked = []

    def halved(chunk):
        asked.append(chunk)
        return chunk.step_rewards / 2

    env = CountingEnv(1, lengths=2)
    split = StateSplit(
        mode="train",
        rules={"*": StateRule(train=range(40), heldout=range(40, 50))},
        states_are_seeds=False,
    )
    collector = RolloutCollector(
        policy=StatePolicy(),
        noise_head=None,
        env=env,
        pirl=a_recipe(),
        placement=Placement(seed=1, rank=0, num_actors=1, split=split),
        reward=BoundedReward(name="half", bound=1.0, reward=halved),
    )
    (episode,) = collector.collect(version=0, min_decisions=1)
    assert [t["reward"] for t in episode.transitions] == [0.0, 0.5]
    paid = [t["complementary_info"]["pirl_step_rewards"].tolist() for t in episode.transitions]
    assert paid == [[[0, 0]], [[0, 0.5]]]
    assert (episode.record.success, episode.record.reward) == (True, 0.5)
    # The second decision looked at what the first one ended with.
    assert np.array_equal(asked[1].before.state, asked[0].after.state)
    assert asked[0].actions.shape == (EXECUTED, 2)
    assert asked[0].instruction in ("push it", "pull it")


# What a config may say


def test_the_reward_is_part_of_the_config_and_a_null_leaves_the_hash_alone():
    plain = load_config(EMBEDDED)
    paid = load_config(EMBEDDED, ['--reward_model={"type": "time_cost", "cost": 0.1}'])
    assert paid.cfg.reward_model == TimeCostConfig(cost=0.1)
    assert paid.identity.hash != plain.identity.hash
    assert check_config(EMBEDDED).identity.hash == plain.identity.hash


@pytest.mark.parametrize(
    ("value", "field", "says"),
    [
        ('{"type": "time_kost"}', "reward_model.type", "did you mean reward_model.type=time_cost"),
        ('{"type": "sarm"}', "reward_model.type", "one of time_cost, reward_classifier"),
        ('{"type": "time_cost", "cost": 2}', "reward_model.cost", "0 <= value <= 1"),
        ('{"type": "time_cost", "kost": 2}', "reward_model.kost", "cost"),
    ],
)
def test_a_reward_that_nobody_offers_or_that_is_wrong_is_refused(value, field, says):
    with pytest.raises(ConfigError, match=says) as caught:
        check_config(EMBEDDED, [f"--reward_model={value}"])
    assert field in {error.field for error in caught.value.errors}


# LeRobot's classifier


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A folder with a classifier that sees success in bright pictures, and its tiny encoder."""
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.rewards.classifier.configuration_classifier import RewardClassifierConfig
    from lerobot.rewards.classifier.modeling_classifier import Classifier

    encoder = tmp_path_factory.mktemp("encoder")
    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ViTModel(ViTConfig(**sizes, image_size=32, patch_size=16)).save_pretrained(encoder)
        config = RewardClassifierConfig(
            model_name=str(encoder),
            model_type="transformer",
            num_cameras=1,
            hidden_dim=8,
            input_features={IMAGE: PolicyFeature(type=FeatureType.VISUAL, shape=(3, 32, 32))},
        )
        model = Classifier(config).eval()
    with torch.no_grad():
        logits = {
            pixel: float(model.predict([torch.full((1, 3, 32, 32), pixel / 255)]).logits)
            for pixel in (0, 255)
        }
        last = model.classifier_head[-1]
        # Success is what the bright picture gives, whatever the random head makes of it.
        sign = 1.0 if logits[255] > logits[0] else -1.0
        middle = (logits[0] + logits[255]) / 2
        last.bias.copy_(sign * (last.bias - middle))
        last.weight.mul_(sign)
    folder = tmp_path_factory.mktemp("classifier")
    model.save_pretrained(folder)
    return folder, replace(config, pretrained_path=str(folder))


def test_the_classifier_pays_one_in_the_last_row_that_ran_where_it_sees_success(classifier):
    folder, config = classifier
    reward = build_reward(a_cfg(config), ENV)
    assert reward(a_chunk(0, 0, 0, valid=2, pixel=255)).tolist() == [0, 1, 0]
    # What the environment thinks does not count.
    assert reward(a_chunk(0, 1, pixel=0)).tolist() == [0, 0]
    assert reward.bound == 1.0
    assert reward.name.startswith("reward_classifier weights=")
    (folder / "other").mkdir(exist_ok=True)
    with pytest.raises(CheckpointError):
        identity_of_reward(a_cfg(replace(config, pretrained_path=str(folder / "other"))))


def test_a_classifier_is_taken_from_folders_without_code_only(classifier, tmp_path):
    folder, config = classifier
    kind = doors.load(doors.REWARDS, "reward_classifier")
    names = ("reward_model.pretrained_path", "reward_model.model_name")

    def errors(**changes):
        section = {
            "type": "reward_classifier",
            "pretrained_path": str(folder),
            "model_name": config.model_name,
            "num_classes": 2,
            "input_features": {IMAGE: {"type": "VISUAL", "shape": [3, 64, 64]}},
        }
        raw = json.dumps(section | changes)
        try:
            check_config(EMBEDDED, [f"--reward_model={raw}"])
        except ConfigError as error:
            return [one.field for one in error.errors]
        return []

    assert kind.config_class().__name__ == "RewardClassifierConfig"
    assert errors() == []
    assert errors(model_name="helper2424/resnet10") == [names[1]]
    assert errors(pretrained_path=None) == [names[0]]
    assert errors(num_classes=3) == ["reward_model.num_classes"]
    wrist = {"observation.images.wrist": {"type": "VISUAL", "shape": [3, 64, 64]}}
    assert errors(input_features=wrist) == ["reward_model.input_features"]
    (tmp_path / "config.json").write_text('{"auto_map": {"AutoModel": "code.Evil"}}')
    assert errors(model_name=str(tmp_path)) == [names[1]]
