"""The bounds of a rollout follow from the config, the policy and the environment."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from rollout_toys import SPEC, a_recipe

from pirl.config.recipe import RuntimeConfig
from pirl.decision import DENOISE_INDEX, LOG_PROB, LOG_PROB_MASK
from pirl.envs.base import EnvInfo
from pirl.envs.schedule import plan_episode
from pirl.envs.split import StateRule, StateSplit
from pirl.errors import ContractError
from pirl.runtime.door import bounds_of

ENV = EnvInfo(
    kind="toy",
    task_names=("press", "drawer", "door"),
    instructions=("press", "open the drawer", "open the door"),
    action_width=2,
    state_width=2,
    image_shapes={},
    max_control_steps={0: 10, 1: 13, 2: 4},
    sim_steps_per_action=5,
    reset_mode="seeded",
)
SPLIT = StateSplit(
    mode="train",
    rules={"*": StateRule(train=range(40), heldout=range(40, 50))},
    states_are_seeds=False,
)
LONGEST = 7
"""Decisions of two rows in the longest time limit, 13."""


def bounds(*, seed=5, pirl=None, **runtime):
    cfg = SimpleNamespace(
        seed=seed,
        pirl=pirl or a_recipe(adv_type="grpo", group_size=2),
        runtime=RuntimeConfig(
            **({"actors": 3, "envs_per_actor": 4, "rollout_chunks": 100} | runtime)
        ),
    )
    return bounds_of(cfg, spec=SPEC, env=ENV, split=SPLIT, inputs=("words",))


def test_sizes_are_the_actors_share_and_what_its_slots_may_add():
    found = bounds()
    assert (found.min_decisions, found.max_decisions) == (34, 34 + 4 * LONGEST)
    assert found.max_held == 100 + 2 * 4 * LONGEST
    assert (found.executed_steps, found.sim_steps_per_action) == (2, 5)
    assert found.constant == ("pirl_group_id", "pirl_words")
    assert found.max_control_steps == ENV.max_control_steps
    assert found.task_names == ENV.task_names


@pytest.mark.parametrize(("mode", "is_async"), [("sync", False), ("async", True)])
def test_the_mode_decides_how_episodes_are_reported(mode, is_async):
    assert bounds(mode=mode).is_async is is_async


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("number", [0, 3, 6])
def test_the_plan_of_an_episode_is_the_schedules(seed, number):
    expected = plan_episode(
        seed=seed or 0,
        policy_version=2,
        rank=1,
        env_index=number % 4,
        episode_index=number // 4,
        task_names=ENV.task_names,
        split=SPLIT,
        num_envs=4,
        num_actors=3,
        group_size=2,
        adv_type="grpo",
    )
    assert bounds(seed=seed).plan(2, 1, number) == expected


def test_a_decision_whose_log_prob_was_not_scored_is_refused():
    shape = (1, SPEC.executed_steps, SPEC.model_dim)
    info = {
        LOG_PROB: torch.zeros(shape),
        LOG_PROB_MASK: torch.ones(shape, dtype=torch.bool),
        DENOISE_INDEX: torch.tensor([1]),
    }
    bounds().require_scored(info)
    info[LOG_PROB_MASK] = torch.zeros(shape, dtype=torch.bool)
    with pytest.raises(ContractError, match="pirl_logprob_mask"):
        bounds().require_scored(info)
