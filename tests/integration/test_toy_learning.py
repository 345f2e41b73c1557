"""PPO over the chain learns: a three-mode 2-D policy finds an off-mode goal; a control does not.

Judged with the deterministic native sampler, which is what stock evaluation runs. Settings and
levels: `algorithm.md` I45 and I46. Every batch of decisions is a function of the version, so
results repeat on one machine; the bounds leave room for the rounding of others.
"""

from __future__ import annotations

import copy
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "algorithm"))

from toys import ToyPolicy, a_recipe, an_algorithm, an_observation

from pirl.algorithm.chain import sample_chunk
from pirl.algorithm.pi_rl import PiRLAlgorithm
from pirl.config.recipe import FlowNoiseConfig, LastStepStd
from pirl.records import DecisionBatch

DECISIONS = 128
"""Per update; each is a whole episode."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """Three modes on a circle and a goal off every mode; lengths in action units."""

    radius: float
    mode_std: float
    tolerance: float
    """Std of the Gaussian-shaped reward around the goal."""

    @property
    def modes(self) -> torch.Tensor:
        """Mode centres, [3, 2]."""
        angles = [math.pi * (0.5 + 2 * i / 3) for i in range(3)]
        return self.radius * torch.tensor([[math.cos(a), math.sin(a)] for a in angles])

    def reward(self, action: torch.Tensor) -> torch.Tensor:
        """1 at the goal, which lies between two modes."""
        goal = torch.tensor([0.0, -0.9 * self.radius])
        return torch.exp(-(action - goal).square().sum(-1) / (2 * self.tolerance**2))


WIDE = Task(radius=1.0, mode_std=0.1, tolerance=0.25)
METRES = Task(radius=0.1, mode_std=0.02, tolerance=0.035)
"""Modes of 2 cm: the scale at which Flow-SDE's own last step is far too wide."""


def pretrained(task: Task) -> ToyPolicy:
    """A policy with the three modes, by its own supervised loss."""
    policy = ToyPolicy(hidden=64)
    optimizer = torch.optim.Adam(policy.trained_parameters().values(), lr=3e-3)
    rng = torch.Generator().manual_seed(0)
    for _ in range(300):
        mode = torch.randint(3, (256,), generator=rng)
        noise = torch.randn(256, 2, generator=rng)
        action = (task.modes[mode] + task.mode_std * noise)[:, None]
        loss = policy.demo_loss({"action": action}, rng=rng)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return policy


@pytest.fixture(scope="module")
def wide() -> ToyPolicy:
    return pretrained(WIDE)


@pytest.fixture(scope="module")
def metres() -> ToyPolicy:
    return pretrained(METRES)


def train(policy: ToyPolicy, task: Task, *, updates: int, **knobs: object) -> PiRLAlgorithm:
    """`updates` updates of a copy of `policy`."""
    return continue_training(start(policy, **knobs), task, versions=range(updates))


def start(policy: ToyPolicy, *, variant: str = "flow-sde", **knobs: object) -> PiRLAlgorithm:
    settings = dict(
        global_batch=DECISIONS, micro_batch=DECISIONS, update_epochs=3, actor_lr=6e-4, value_lr=1e-2
    )
    return an_algorithm(copy.deepcopy(policy), a_recipe(variant, **{**settings, **knobs}))


def continue_training(algorithm: PiRLAlgorithm, task: Task, *, versions: range) -> PiRLAlgorithm:
    for version in versions:
        algorithm.update(iter([decisions(algorithm, task, version=version)]))
    return algorithm


def decisions(algorithm: PiRLAlgorithm, task: Task, *, version: int) -> DecisionBatch:
    """One-decision episodes under the current weights."""
    observation = an_observation(DECISIONS)
    sampled = sample_chunk(
        algorithm.policy,
        algorithm.policy.encode(observation),
        pirl=algorithm.config.pirl,
        noise_head=algorithm.noise_head,
        rngs=[torch.Generator().manual_seed(10_007 * version + r) for r in range(DECISIONS)],
    )
    every = torch.ones(DECISIONS, dtype=torch.int64)
    return DecisionBatch(
        observation=observation,
        next_observation=observation,
        action=sampled.chunk,
        reward=task.reward(sampled.chunk[:, 0]),
        terminated=every > 0,
        truncated=every < 0,
        fields={
            **sampled.fields,
            "pirl_version": every * version,
            "pirl_episode_id": torch.arange(DECISIONS),
            "pirl_chunk_idx": every * 0,
            "pirl_valid_steps": every,
            "pirl_group_id": -every,
            "is_intervention": every * 0,
        },
        policy_version=version,
    )


def evaluate(algorithm: PiRLAlgorithm, task: Task) -> float:
    """Mean reward of the deterministic native sampler on 256 start noises not seen in training."""
    sampled = sample_chunk(
        algorithm.policy,
        algorithm.policy.encode(an_observation(256)),
        pirl=algorithm.config.pirl,
        noise_head=algorithm.noise_head,
        rngs=[torch.Generator().manual_seed(10**9 + r) for r in range(256)],
        stochastic=False,
    )
    return float(task.reward(sampled.chunk[:, 0]).mean())


def test_the_supervised_policy_rarely_reaches_the_goal(wide):
    assert evaluate(start(wide), WIDE) < 0.1


def test_flow_sde_learns_the_goal(wide):
    assert evaluate(train(wide, WIDE, updates=26), WIDE) >= 0.9


def test_shuffled_advantages_do_not_learn_the_goal(wide):
    control = train(wide, WIDE, updates=26, shuffle_advantages=True)
    assert evaluate(control, WIDE) < 0.3


@pytest.mark.slow
def test_flow_noise_learns_the_goal(wide):
    algorithm = train(
        wide,
        WIDE,
        updates=28,
        variant="flow-noise",
        flow_noise=FlowNoiseConfig(noise_std_range=(0.1, 0.4), joint_reduction="sum"),
    )
    assert evaluate(algorithm, WIDE) >= 0.9


@pytest.mark.slow
def test_grpo_learns_the_goal_without_a_critic(wide):
    algorithm = start(wide, adv_type="grpo", group_size=16, reward_filter=(0.0, 1.0))
    for version in range(26):
        batch = decisions(algorithm, WIDE, version=version)
        groups = torch.arange(DECISIONS) // 16
        batch = replace(batch, fields={**batch.fields, "pirl_group_id": groups})
        algorithm.update(iter([batch]))
    assert evaluate(algorithm, WIDE) >= 0.9


@pytest.mark.slow
def test_at_metre_scale_a_given_last_step_std_beats_the_sdes_own(metres):
    """Mean of three evaluations each: under the wide one the policy jumps about."""
    results = {}
    for rule in ("additive", "sde"):
        algorithm = start(metres, last_step_rule=rule, last_step_std=LastStepStd(other=0.02))
        rewards = []
        for first in (0, 8, 16):
            continue_training(algorithm, METRES, versions=range(first, first + 8))
            rewards.append(evaluate(algorithm, METRES))
        results[rule] = sum(rewards) / 3
    assert results["additive"] >= 0.9
    assert results["additive"] - results["sde"] >= 0.15
