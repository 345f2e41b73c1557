"""Episodes in lockstep: what a slot sees, does and hands over, and which episodes a rollout has."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rollout_toys import EXECUTED, INPUTS, CountingEnv, LonePolicy, StatePolicy, a_recipe

from pirl.envs.schedule import plan_episode
from pirl.envs.split import StateRule, StateSplit
from pirl.errors import EnvError
from pirl.records import EpisodePlan
from pirl.runtime.batch import build_batch
from pirl.runtime.lockstep import Lockstep
from pirl.runtime.rollout import Placement, RolloutCollector
from pirl.runtime.timers import StageTimers

SPLIT = StateSplit(
    mode="train",
    rules={"*": StateRule(train=range(40), heldout=range(40, 50))},
    states_are_seeds=False,
)


def a_plan(episode_id, *, task_id=0, group_id=-1):
    return EpisodePlan(
        task_id=task_id,
        init_state_id=3,
        seed=100 + episode_id,
        episode_id=episode_id,
        group_id=group_id,
    )


def run(
    env,
    plans,
    *,
    policy=None,
    timers=None,
    stochastic=True,
    on_broken_off=lambda _: None,
    **options,
):
    """Run the plans, a slot each, all at once; episodes by id."""
    runner = Lockstep(
        policy=policy or StatePolicy(),
        noise_head=None,
        env=env,
        pirl=a_recipe(),
        timers=timers or StageTimers(),
        stochastic=stochastic,
        on_broken_off=on_broken_off,
    )

    def next_plans(idle, executed):
        return {} if executed else {index: plans[index] for index in idle if index in plans}

    options = {
        "seed_of": lambda plan, chunk: 1000 * plan.episode_id + chunk,
        "version": 4,
    } | options
    return {one.record.episode_id: one for one in runner.run(next_plans, **options)}


def a_collector(
    env,
    *,
    rank=0,
    seed=5,
    num_actors=2,
    policy=None,
    pipeline=1,
    on_broken_off=lambda _: None,
    **recipe,
):
    return RolloutCollector(
        policy=policy or StatePolicy(),
        noise_head=None,
        env=env,
        pirl=a_recipe(**recipe),
        placement=Placement(seed=seed, rank=rank, num_actors=num_actors, split=SPLIT),
        timers=StageTimers(),
        pipeline=pipeline,
        on_broken_off=on_broken_off,
    )


def ids(episodes):
    return [one.record.episode_id for one in episodes]


def identifiers(transitions, name):
    return [int(t["complementary_info"][name]) for t in transitions]


# One episode


def test_an_episode_is_a_chain_of_decisions_from_reset_to_its_end():
    env = CountingEnv(1, lengths=3)
    episode = run(env, {0: a_plan(6, task_id=1, group_id=9)})[6]
    states = [t["state"]["observation.state"].tolist() for t in episode.transitions]
    following = [t["next_state"]["observation.state"].tolist() for t in episode.transitions]
    assert states == [[[6.0, 0.0]], [[6.0, 1.0]], [[6.0, 2.0]]]
    assert following == [[[6.0, 1.0]], [[6.0, 2.0]], [[6.0, 3.0]]]
    images = [t["state"]["observation.images.image"] for t in episode.transitions]
    assert [tuple(image.shape) for image in images] == [(1, 3, 2, 2)] * 3
    assert [int(image.max()) for image in images] == [0, 1, 2]
    assert [t["done"] for t in episode.transitions] == [False, False, True]
    assert [t["truncated"] for t in episode.transitions] == [False] * 3
    assert [t["reward"] for t in episode.transitions] == [0.0, 0.0, 1.0]
    assert identifiers(episode.transitions, "pirl_chunk_idx") == [0, 1, 2]
    assert identifiers(episode.transitions, "pirl_version") == [4] * 3
    assert identifiers(episode.transitions, "pirl_episode_id") == [6] * 3
    assert identifiers(episode.transitions, "pirl_group_id") == [9] * 3
    assert identifiers(episode.transitions, "pirl_domain_id") == [7] * 3
    words = [t["complementary_info"]["pirl_input_ids"].tolist() for t in episode.transitions]
    assert words == [[[4, 5, 6]]] * 3


def test_the_record_of_an_episode_is_that_of_its_plan_and_its_decisions():
    env = CountingEnv(1, lengths=3)
    episode = run(env, {0: a_plan(6, task_id=1)})[6]
    record = episode.record
    assert (record.task_id, record.task, record.init_state_id, record.seed) == (1, "pull", 3, 106)
    assert (record.policy_version, record.decisions, record.env_steps) == (4, 3, 10 + 20 + 30)
    assert (record.reward, record.success, record.truncated) == (1.0, True, False)
    assert [int(frame.max()) for frame in episode.frames] == [1, 2, 3]


def test_a_time_limit_ends_an_episode_without_success():
    env = CountingEnv(1, lengths=2, truncates=(6,))
    episode = run(env, {0: a_plan(6)})[6]
    assert [t["truncated"] for t in episode.transitions] == [False, True]
    assert [t["done"] for t in episode.transitions] == [False, False]
    assert (episode.record.success, episode.record.truncated, episode.record.reward) == (
        False,
        True,
        0.0,
    )


# Slots


@pytest.mark.parametrize("stochastic", [True, False])
def test_every_slot_executes_what_was_decided_for_its_own_observation(stochastic):
    env = CountingEnv(3, lengths={1: 1, 2: 3, 3: 2})
    plans = {0: a_plan(1), 1: a_plan(2), 2: a_plan(3)}
    episodes = run(env, plans, stochastic=stochastic)
    assert sorted(episodes) == [1, 2, 3]
    for index, plan in plans.items():
        executed = [step[index] for step in env.steps if index in step]
        recorded = [t["action"] for t in episodes[plan.episode_id].transitions]
        assert [tuple(action.shape) for action in recorded] == [(1, EXECUTED, 2)] * len(recorded)
        np.testing.assert_allclose(np.stack(executed), 10 * torch.cat(recorded).numpy(), rtol=1e-6)
        if not stochastic:
            # The policy predicts the state that it sees.
            states = [
                t["state"]["observation.state"] for t in episodes[plan.episode_id].transitions
            ]
            shown = torch.stack(states).expand(-1, EXECUTED, -1)
            torch.testing.assert_close(torch.cat(recorded), shown, rtol=0, atol=1e-5)


def test_a_slot_without_an_episode_stands_still():
    env = CountingEnv(3, lengths={1: 1, 3: 3})
    run(env, {0: a_plan(1), 2: a_plan(3)})
    assert [sorted(reset) for reset in env.resets] == [[0, 2]]
    assert [sorted(step) for step in env.steps] == [[0, 2], [2], [2]]


def test_replay_fields_are_those_of_the_decision_and_not_of_its_neighbour():
    together = run(CountingEnv(2), {0: a_plan(1), 1: a_plan(2)})
    for episode in (1, 2):
        alone = run(CountingEnv(1), {0: a_plan(episode)})[episode].transitions
        for mine, other in zip(together[episode].transitions, alone, strict=True):
            infos = mine["complementary_info"], other["complementary_info"]
            assert infos[0].keys() == infos[1].keys()
            for name, value in infos[0].items():
                assert value.shape[0] == 1
                torch.testing.assert_close(value, infos[1][name], rtol=0, atol=0)


def test_the_transitions_of_a_rollout_make_a_batch():
    episodes = run(CountingEnv(2), {0: a_plan(1), 1: a_plan(2, task_id=1)})
    batch = build_batch(
        [t for one in episodes.values() for t in one.transitions], policy_version=4, inputs=INPUTS
    )
    assert batch.policy_version == 4
    assert batch.observation.state.tolist() == [[1, 0], [1, 1], [2, 0], [2, 1]]
    assert batch.next_observation.state.tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
    assert batch.observation.inputs["input_ids"][:, 0].tolist() == [1, 1, 4, 4]
    assert batch.next_observation.inputs["input_ids"][:, 0].tolist() == [1, 1, 4, 4]
    assert batch.observation.inputs["domain_id"].tolist() == [7] * 4
    assert list(batch.observation.images) == ["observation.images.image"]
    assert batch.reward.tolist() == [0.0, 1.0, 0.0, 1.0]
    assert batch.terminated.tolist() == [False, True, False, True]
    assert batch.fields["pirl_step_rewards"].tolist() == [[0, 0], [0, 1], [0, 0], [0, 1]]
    assert batch.fields["pirl_valid_steps"].tolist() == [EXECUTED] * 4
    assert batch.fields["is_intervention"].tolist() == [0] * 4


def test_without_noise_one_slot_is_decided_as_part_of_a_batch_of_two():
    policy = StatePolicy()
    run(
        CountingEnv(3, lengths={1: 1, 2: 2, 3: 3}),
        dict(enumerate(map(a_plan, (1, 2, 3)))),
        policy=policy,
        stochastic=False,
    )
    assert policy.rows == [3, 2, 2]
    policy = StatePolicy()
    run(CountingEnv(2, lengths={1: 1, 2: 2}), {0: a_plan(1), 1: a_plan(2)}, policy=policy)
    assert policy.rows == [2, 1]


def test_giving_up_leaves_the_episodes_under_way_unfinished():
    env = CountingEnv(2, lengths={1: 1, 2: 5})
    answers = iter([False, False, True])
    episodes = run(env, {0: a_plan(1), 1: a_plan(2)}, give_up=lambda: next(answers))
    assert sorted(episodes) == [1]
    assert len(env.steps) == 2


def test_every_stage_of_a_decision_is_timed():
    timers = StageTimers()
    run(CountingEnv(2), {0: a_plan(1), 1: a_plan(2)}, timers=timers)
    row = timers.drain()
    assert row.keys() == {
        f"time/{n}_s" for n in ("reset", "preprocess", "infer", "env_step", "render")
    }
    # Two slots of two decisions; the environment says 1, 2 and 4 seconds each.
    assert row["time/env_step_s"] == 4.0
    assert row["time/render_s"] == 8.0
    assert row["time/preprocess_s"] >= 16.0


# A rollout


def test_a_slot_goes_on_while_too_few_decisions_were_executed_and_then_ends_its_episode():
    env = CountingEnv(2)
    episodes = list(a_collector(env).collect(version=0, min_decisions=5))
    # Two slots of two decisions: 4 are too few, 8 are enough.
    assert ids(episodes) == [0, 1, 2, 3]
    env = CountingEnv(2)
    assert ids(a_collector(env).collect(version=0, min_decisions=4)) == [0, 1]
    assert [sorted(reset) for reset in env.resets] == [[0, 1]]


def test_slots_start_anew_one_by_one_with_gae():
    env = CountingEnv(2, lengths={0: 1, 1: 3})
    episodes = list(a_collector(env).collect(version=0, min_decisions=5))
    assert [sorted(reset) for reset in env.resets] == [[0, 1], [0]]
    # In the order they end.
    assert ids(episodes) == [0, 2, 1]


def test_slots_start_together_with_grpo():
    env = CountingEnv(2, lengths={0: 1, 1: 3})
    collector = a_collector(env, adv_type="grpo", group_size=2)
    episodes = list(collector.collect(version=0, min_decisions=5))
    assert [sorted(reset) for reset in env.resets] == [[0, 1], [0, 1]]
    assert len(episodes) == 4
    groups = [identifiers(one.transitions, "pirl_group_id")[0] for one in episodes]
    assert groups[0] == groups[1] != groups[2] == groups[3]


def test_episodes_are_those_of_the_schedule():
    env = CountingEnv(2)
    list(a_collector(env, rank=1).collect(version=3, min_decisions=8))
    planned = [
        {
            index: plan_episode(
                seed=5,
                policy_version=3,
                rank=1,
                env_index=index,
                episode_index=count,
                task_names=env.task_names,
                split=SPLIT,
                num_envs=2,
                num_actors=2,
            )
            for index in range(2)
        }
        for count in range(2)
    ]
    assert env.resets == planned


def test_a_version_goes_on_where_it_stopped_unless_it_is_asked_for_anew():
    collector = a_collector(CountingEnv(2))
    assert ids(collector.collect(version=0, min_decisions=4)) == [0, 1]
    assert ids(collector.collect(version=0, min_decisions=4)) == [2, 3]
    assert ids(collector.collect(version=0, min_decisions=4, anew=True)) == [0, 1]
    assert ids(collector.collect(version=1, min_decisions=4)) == [1 << 16, (1 << 16) + 1]
    assert ids(collector.collect(version=0, min_decisions=4)) == [0, 1]


def actions_of(episodes):
    return torch.cat([t["action"] for one in episodes for t in one.transitions])


def test_draws_follow_seed_version_rank_episode_and_chunk_and_nothing_else():
    def collect(*, version=0, **options):
        env = CountingEnv(1, lengths=2)
        return actions_of(a_collector(env, **options).collect(version=version, min_decisions=3))

    first = collect()
    assert torch.equal(first, collect())
    # States differ by whole numbers; what is left of them is the draw.
    noise = first - first.round()
    assert len({tuple(row) for row in noise.flatten(1).tolist()}) == 4
    for other in (collect(version=1), collect(rank=1), collect(seed=6)):
        assert not torch.equal(first, other)


def test_giving_up_reaches_the_rollout():
    env = CountingEnv(2)
    assert ids(a_collector(env).collect(version=0, min_decisions=4, give_up=lambda: True)) == []
    assert env.steps == []


# Two groups of slots


def rollouts(pipeline, *, num_envs, min_decisions, lengths, **options):
    """Two rollouts under a policy that shows which rows were decided alone; plans by slot in their order."""
    env = CountingEnv(num_envs, lengths=lengths, truncates=range(0, 200, 7))
    collector = a_collector(env, policy=LonePolicy(), pipeline=pipeline, **options)
    episodes = []
    for version in (0, 1):
        episodes += collector.collect(version=version, min_decisions=min_decisions)
        episodes += collector.collect(version=version, min_decisions=min_decisions // 3)
    plans = [[r[slot] for r in env.resets if slot in r] for slot in range(num_envs)]
    return episodes, plans


def assert_same_episodes(ours, theirs):
    assert [one.record for one in ours] == [one.record for one in theirs]
    for one, other in zip(ours, theirs, strict=True):
        for mine, its in zip(one.transitions, other.transitions, strict=True):
            assert mine.keys() == its.keys()
            torch.testing.assert_close(mine, its, rtol=0, atol=0)


@pytest.mark.parametrize("recipe", [{}, {"adv_type": "grpo", "group_size": 2}])
@pytest.mark.parametrize("num_envs", [4, 6])
@pytest.mark.parametrize("case", range(5))
def test_two_groups_make_the_rollout_of_one_to_the_last_bit(recipe, num_envs, case):
    rng = np.random.default_rng([case, num_envs])
    lengths = {
        episode + (version << 16): int(rng.integers(1, 6))
        for version in (0, 1)
        for episode in range(200)
    }
    options = {
        "num_envs": num_envs,
        "min_decisions": int(rng.integers(1, 40)),
        "lengths": lengths,
        **recipe,
    }
    (ours, our_plans), (theirs, their_plans) = rollouts(2, **options), rollouts(1, **options)
    assert our_plans == their_plans
    assert_same_episodes(ours, theirs)


def test_one_group_simulates_while_the_other_decides_and_starts():
    env = CountingEnv(4, lengths={0: 1, 2: 1})
    list(a_collector(env, pipeline=2).collect(version=0, min_decisions=6))
    assert env.log == [
        ("reset", 0, 1),
        ("start", 0, 1),
        ("reset", 2, 3),
        ("start", 2, 3),
        ("results", 0, 1),
        ("reset", 0),
        ("start", 0, 1),
        ("results", 2, 3),
        ("reset", 2),
        ("start", 2, 3),
        # Eight decisions are enough. Slot 0 is the last of its group: who else goes on has to be known.
        ("results", 0, 1),
        ("results", 2, 3),
        ("start", 0),
        ("start", 2),
        ("results", 0),
        ("results", 2),
    ]


@pytest.mark.parametrize("slot", [1, 2])
def test_a_simulator_that_dies_in_either_group_breaks_off_the_episodes_of_both(slot):
    class Dying(CountingEnv):
        def step_chunk(self, actions):
            if slot in actions and self.decisions[slot] == 1:
                raise EnvError("worker died", slots=(slot,))
            return super().step_chunk(actions)

    env, broken = Dying(4, lengths=3), []
    collector = a_collector(env, pipeline=2, on_broken_off=broken.append)
    with pytest.raises(EnvError) as caught:
        list(collector.collect(version=0, min_decisions=30))
    assert caught.value.slots == (slot,)
    assert [(b.episode_id, b.end) for b in broken] == [(i, "env-error") for i in range(4)]
    # What a group was told to execute and nobody saw is no decision.
    assert [b.decisions for b in broken] == ([1, 1, 1, 1] if slot == 1 else [2, 2, 1, 1])


@pytest.mark.parametrize("calls", range(4))
def test_giving_up_is_asked_before_the_decision_of_either_group(calls):
    env, answers = CountingEnv(4, lengths=3), iter([False] * calls + [True])
    collector = a_collector(env, pipeline=2)
    assert not list(collector.collect(version=0, min_decisions=9, give_up=lambda: next(answers)))
    assert sum(entry[0] == "start" for entry in env.log) == calls


# Episodes that are not finished


def test_an_episode_that_is_given_up_is_broken_off_and_a_finished_one_is_not():
    broken, asked = [], iter([False, False, True])
    env = CountingEnv(2, lengths={6: 1, 7: 5})
    ended = run(
        env,
        {0: a_plan(6), 1: a_plan(7, task_id=1)},
        on_broken_off=broken.append,
        give_up=lambda: next(asked),
    )
    assert list(ended) == [6]
    assert [(b.episode_id, b.task, b.decisions, b.end) for b in broken] == [
        (7, "pull", 2, "interrupted")
    ]


@pytest.mark.parametrize(("call", "decisions"), [("reset", 0), ("step_chunk", 0)])
def test_an_episode_whose_simulator_dies_is_broken_off_by_an_error(monkeypatch, call, decisions):
    def die(*_):
        raise EnvError("worker 0 died")

    env, broken = CountingEnv(1, lengths=3), []
    monkeypatch.setattr(env, call, die)
    with pytest.raises(EnvError):
        run(env, {0: a_plan(6)}, on_broken_off=broken.append)
    assert [(b.episode_id, b.decisions, b.end) for b in broken] == [(6, decisions, "env-error")]


def test_whoever_stops_listening_breaks_off_what_is_under_way():
    broken = []
    env = CountingEnv(2, lengths={6: 1, 7: 5})
    runner = Lockstep(
        policy=StatePolicy(), noise_head=None, env=env, pirl=a_recipe(),
        timers=StageTimers(), stochastic=True, on_broken_off=broken.append,
    )  # fmt: skip
    plans = {0: a_plan(6), 1: a_plan(7)}
    episodes = runner.run(
        lambda _, executed: {} if executed else plans, seed_of=lambda *_: 1, version=0
    )
    next(episodes)
    episodes.close()
    assert [b.episode_id for b in broken] == [7]
