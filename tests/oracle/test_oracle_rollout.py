"""From raw episodes to advantages: pirl's slots, rollout and batch against an oracle that reads diaries.

The simulators write down what happened step by step. The oracle cuts that into decisions by itself
and computes values, advantages, weights and masks from it; pirl gets there through slots, lockstep,
transitions and `build_batch`.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from oracle_cases import at_last_step
from oracle_sims import Bench, Diary, RawEpisode, RawLibero, RawMetaWorld, a_split
from oracle_toys import OraclePolicy, a_recipe, a_spec, an_algorithm
from plain_chain import Seen, read_decision, recorded_samples, reduced, sample_elements
from plain_credit import (
    Outcome,
    followers,
    gae,
    grpo,
    is_done,
    normalized,
    trajectory_weights,
    value_of,
)
from plain_update import PlainLearner

from pirl.runtime.batch import build_batch
from pirl.runtime.rollout import Placement, RolloutCollector
from pirl.runtime.timers import StageTimers

ROWS, SLOTS, VERSION, POSE = 2, 4, 3, 4
EXACT = dict(rtol=1e-9, atol=1e-11)
"""Both sides compute in fp64 from the simulator's fp32 states."""
GOALS = ((3, None), (None, 1), (None, 8), (2, 9))
"""Simulator steps of success, by slot and episode; None runs into the time limit."""


@dataclass(frozen=True, kw_only=True)
class RawDecision:
    """What happened between two looks of the policy."""

    before: np.ndarray
    after: np.ndarray
    rewards: list[float]
    """Per control action that ran."""
    actions: list[np.ndarray]
    """Likewise; every simulator step of an action took the same one."""
    solved: bool
    out_of_time: bool


def decisions_of(raw: RawEpisode, bench: Bench) -> list[RawDecision]:
    """An episode's simulator steps, cut into control actions and those into decisions."""
    actions: list[list[int]] = []
    for step in range(len(raw.success)):
        if not actions or len(actions[-1]) == bench.repeat:
            actions.append([])
        actions[-1].append(step)
    found: list[RawDecision] = []
    for first in range(0, len(actions), ROWS):
        ran = actions[first : first + ROWS]
        steps = [step for action in ran for step in action]
        solved = any(raw.success[step] for step in steps)
        found.append(
            RawDecision(
                before=raw.states[steps[0]],
                after=raw.states[steps[-1] + 1],
                rewards=[float(any(raw.success[step] for step in action)) for action in ran],
                actions=[raw.actions[action[0]] for action in ran],
                solved=solved,
                out_of_time=not solved and steps[-1] + 1 == bench.limit,
            )
        )
    return found


class World:
    """A rollout of pirl, and the same episodes as their simulators wrote them down."""

    def __init__(self, kind: type[Diary], variant: str, *, repeat: int, **knobs: object) -> None:
        self.pirl = a_recipe(variant, **knobs)
        self.spec = a_spec(steps=3)
        seeded = kind is RawMetaWorld
        policy = OraclePolicy(self.spec, trains_encoder=False)
        self.algorithm = an_algorithm(policy, self.pirl, total_updates=5)
        self.bench = Bench(
            diaries=[kind(goals, number=slot) for slot, goals in enumerate(GOALS)],
            repeat=repeat,
            limit=9,
        )
        split = a_split(seeded=seeded)
        with self.bench.vector_env(split) as env:
            collector = RolloutCollector(
                policy=policy,
                noise_head=self.algorithm.noise_head,
                env=env,
                pirl=self.pirl,
                placement=Placement(seed=1, rank=0, num_actors=1, split=split),
                timers=StageTimers(),
            )
            episodes = list(collector.collect(version=VERSION, min_decisions=18))
        transitions = [t for episode in episodes for t in episode.transitions]
        # Arrival order must not matter.
        random.Random(0).shuffle(transitions)
        batch = build_batch(transitions, policy_version=VERSION, inputs=policy.inputs)
        self.batch = replace(batch, reward=batch.reward.double())
        self.raw = self.cut()

    def cut(self) -> list[RawDecision]:
        """The raw decision of every row, found by slot and turn of its episode's id."""
        found: list[RawDecision] = []
        for row in range(len(self.batch)):
            turn = int(self.batch.fields["pirl_episode_id"][row]) % 2**16
            diary = self.bench.diaries[turn % SLOTS]
            whole = decisions_of(diary.episodes[turn // SLOTS], self.bench)
            found.append(whole[int(self.batch.fields["pirl_chunk_idx"][row])])
        return found

    def outcomes(self) -> list[Outcome]:
        fields = self.batch.fields
        return [
            Outcome(
                episode=int(fields["pirl_episode_id"][row]),
                chunk=int(fields["pirl_chunk_idx"][row]),
                group=int(fields["pirl_group_id"][row]),
                reward=sum(raw.rewards),
                terminated=raw.solved,
                truncated=raw.out_of_time,
            )
            for row, raw in enumerate(self.raw)
        ]

    def oracle(self) -> PlainLearner:
        policy = self.algorithm.policy
        named = dict(policy.module.named()) | dict(self.algorithm._nets.parameters())
        return PlainLearner(
            policy.network,
            self.spec,
            self.pirl,
            weights={n: w.detach() for n, w in named.items()},
            policy_names=list(policy.trained_parameters()),
            total_updates=5,
            seed=0,
            demo_loss=policy.network.demo_loss,
            demos=None,
        )

    def values(self, oracle: PlainLearner) -> tuple[list[float], list[float]]:
        """V(state) and V(next_state) of every row, from what the simulators showed."""

        def value(state: np.ndarray, row: int, chunk: int) -> float:
            seen = Seen(state=torch.from_numpy(state).double(), domain=0)
            decision = read_decision(self.spec, self.pirl, self.batch.fields, row)
            inputs = oracle.critic_input(oracle.weights, seen, decision, chunk)
            return float(value_of(oracle.weights, inputs))

        outcomes = self.outcomes()
        now = [value(raw.before, row, outcomes[row].chunk) for row, raw in enumerate(self.raw)]
        after = [value(raw.after, row, outcomes[row].chunk + 1) for row, raw in enumerate(self.raw)]
        return now, after


def members(outcomes: list[Outcome]) -> set[tuple[int, int]]:
    """(group, episode) pairs."""
    return {(o.group, o.episode) for o in outcomes}


def same(ours: torch.Tensor, theirs: list[float]) -> None:
    expected = torch.tensor(theirs, dtype=torch.float64)
    torch.testing.assert_close(ours.double(), expected, **EXACT)


KINDS = {
    "metaworld": (RawMetaWorld, 1),
    "metaworld-repeat": (RawMetaWorld, 2),
    "libero": (RawLibero, 1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_holds_what_the_simulators_wrote_down(kind):
    world = World(KINDS[kind][0], "flow-sde", repeat=KINDS[kind][1])
    batch, raw = world.batch, world.raw
    assert {r.solved for r in raw} == {r.out_of_time for r in raw} == {True, False}
    assert {len(r.rewards) for r in raw} == {1, ROWS}
    assert batch.terminated.tolist() == [r.solved for r in raw]
    assert batch.truncated.tolist() == [r.out_of_time for r in raw]
    assert batch.fields["pirl_valid_steps"].tolist() == [len(r.rewards) for r in raw]
    same(batch.reward, [sum(r.rewards) for r in raw])
    for row, decision in enumerate(raw):
        padded = decision.rewards + [0.0] * (ROWS - len(decision.rewards))
        assert batch.fields["pirl_step_rewards"][row].tolist() == padded
        for place, action in enumerate(decision.actions):
            # MetaWorld's actions are clipped; these are the pose channels of both simulators.
            wanted = batch.action[row, place, :POSE].numpy()
            low, high = (-1.0, 1.0) if "metaworld" in kind else (-np.inf, np.inf)
            assert np.array_equal(action[:POSE], np.clip(wanted, low, high))
        assert np.array_equal(batch.observation.state[row].numpy(), decision.before)
        assert np.array_equal(batch.next_observation.state[row].numpy(), decision.after)


@pytest.mark.parametrize("bootstrap", [False, True], ids=["limit ends", "limit bootstraps"])
@pytest.mark.parametrize("source", ["vlm", "vlm_tokens"])
@pytest.mark.parametrize("kind", KINDS)
def test_advantages_returns_and_weights_are_those_of_the_raw_episodes(kind, source, bootstrap):
    world = World(
        KINDS[kind][0],
        "flow-sde",
        repeat=KINDS[kind][1],
        bootstrap_on_truncation=bootstrap,
        value_source=source,
    )
    prepared = world.algorithm._prepare(world.batch)
    outcomes, everyone = world.outcomes(), [True] * len(world.batch)
    now, after = world.values(world.oracle())
    # Within an episode the policy looks once per decision: what is next is the next row.
    for row, follower in enumerate(followers(outcomes)):
        assert (follower is None) == (outcomes[row].terminated or outcomes[row].truncated)
        if follower is not None:
            assert np.array_equal(world.raw[row].after, world.raw[follower].before)
    goes_on = [0.0 if is_done(o, world.pirl) else v for o, v in zip(outcomes, after, strict=True)]
    advantage = gae(outcomes, now, goes_on, world.pirl)
    same(prepared.old_value, now)
    same(prepared.advantage, normalized(advantage, everyone, world.pirl))
    same(prepared.target, [a + v for a, v in zip(advantage, now, strict=True)])
    weights = trajectory_weights(outcomes, everyone, world.pirl)
    same(prepared.actor_weight, weights)
    same(prepared.critic_weight, weights)


@pytest.mark.parametrize("kind", KINDS)
def test_group_advantages_are_those_of_the_raw_episodes(kind):
    world = World(
        KINDS[kind][0],
        "flow-sde",
        repeat=KINDS[kind][1],
        adv_type="grpo",
        group_size=SLOTS,
        reward_filter=(0.2, 0.6),
    )
    prepared = world.algorithm._prepare(world.batch)
    outcomes = world.outcomes()
    advantage, kept = grpo(outcomes, world.pirl)
    # Slots start together, so every group is whole.
    assert set(Counter(group for group, _ in members(outcomes)).values()) == {SLOTS}
    # Both verdicts of the filter occur; the kept group's mean score is not on a bound.
    assert set(kept) == {True, False}
    same(prepared.advantage, advantage)
    same(prepared.actor_weight, trajectory_weights(outcomes, kept, world.pirl))
    assert prepared.sample_mask.flatten(1).any(dim=1).tolist() == kept


@pytest.mark.parametrize("level", ["chunk", "token"])
@pytest.mark.parametrize("variant", ["flow-sde", "flow-noise"])
def test_masks_and_recorded_log_probs_are_those_of_the_rows_that_ran(variant, level):
    knobs = at_last_step() if variant == "flow-sde" else {}
    world = World(RawLibero, variant, repeat=1, logprob_level=level, **knobs)
    prepared = world.algorithm._prepare(world.batch)
    keys: dict[tuple[int, ...], None] = {}
    for row, raw in enumerate(world.raw):
        fields = {
            **world.batch.fields,
            "pirl_valid_steps": torch.full((len(world.raw),), len(raw.rewards)),
        }
        decision = read_decision(world.spec, world.pirl, fields, row)
        samples = recorded_samples(world.spec, world.pirl, fields, row)
        assert sorted(samples) == sample_elements(world.spec, world.pirl, decision)
        expected = reduced(samples, level)
        keys |= dict.fromkeys(expected)
        counted = [tuple(place) for place in prepared.sample_mask[row].nonzero().tolist()]
        assert counted == sorted(expected)
        for key, value in expected.items():
            # pirl sums in the fp32 of what was recorded: eight terms of some 1 nat.
            assert float(prepared.behaviour[row][key]) == pytest.approx(value, abs=1e-5)
    assert keys
