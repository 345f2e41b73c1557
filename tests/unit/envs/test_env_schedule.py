"""Episode plans and random streams are pure functions of where they are used."""

import random
from collections import Counter

import pytest

from pirl.envs.schedule import evaluation_plans, plan_episode, stream_seed
from pirl.envs.split import assert_allowed, load_split
from pirl.errors import ConfigError

TASKS = tuple(f"libero_10/{i}" for i in range(10))
SPLIT = load_split("libero")


def make(version=0, rank=0, env=0, episode=0, **changes):
    settings = {
        "seed": 1,
        "policy_version": version,
        "rank": rank,
        "env_index": env,
        "episode_index": episode,
        "task_names": TASKS,
        "split": SPLIT,
        "num_envs": 4,
        "num_actors": 2,
    }
    return plan_episode(**(settings | changes))


def everywhere(**changes):
    return [
        (version, rank, env, episode)
        for version in range(changes.get("versions", 5))
        for rank in range(2)
        for env in range(4)
        for episode in range(5)
    ]


def test_plans_do_not_depend_on_the_order_in_which_they_are_made():
    places = everywhere()
    forward = {place: make(*place) for place in places}
    shuffled = places.copy()
    random.Random(0).shuffle(shuffled)
    assert {place: make(*place) for place in shuffled} == forward


def test_episode_ids_are_unique_in_a_run_and_tell_the_actor():
    plans = {place: make(*place) for place in everywhere()}
    assert len({plan.episode_id for plan in plans.values()}) == len(plans)
    assert all(plan.episode_id >> 32 == place[1] for place, plan in plans.items())


def test_tasks_are_covered_evenly():
    counts = Counter(make(*place).task_id for place in everywhere())
    assert counts == dict.fromkeys(range(10), 20)


def test_one_episode_per_version_still_visits_every_task():
    seen = Counter(
        make(version, 0, 0, 0, num_envs=1, num_actors=1).task_id for version in range(20)
    )
    assert seen == dict.fromkeys(range(10), 2)


def test_states_are_allowed_and_varied():
    plans = [make(*place) for place in everywhere()]
    for plan in plans:
        assert_allowed(plan, split=SPLIT, task=TASKS[plan.task_id])
    assert len({plan.init_state_id for plan in plans}) > 35
    assert len({plan.seed for plan in plans}) == len(plans)


def test_seed_and_version_change_the_episodes():
    def states(**changes):
        return [make(env=env, **changes).init_state_id for env in range(4)]

    assert states() != states(seed=2)
    assert states() != states(version=1)
    assert states() != states(rank=1)


def test_a_grpo_group_shares_task_state_and_seed():
    plans = [make(env=env, adv_type="grpo", group_size=2) for env in range(4)]
    shared = [(p.task_id, p.init_state_id, p.seed, p.group_id) for p in plans]
    assert shared[0] == shared[1]
    assert shared[2] == shared[3]
    assert shared[0] != shared[2]
    assert len({plan.episode_id for plan in plans}) == 4
    assert (
        len({make(env=0, version=v, adv_type="grpo", group_size=2).group_id for v in range(5)}) == 5
    )


def test_without_groups_there_is_no_group_id():
    assert {make(*place, group_size=2).group_id for place in everywhere()} == {-1}


def test_grpo_groups_cover_tasks_evenly():
    counts = Counter(make(*p, adv_type="grpo", group_size=4).task_id for p in everywhere())
    assert max(counts.values()) - min(counts.values()) == 0


def test_on_metaworld_the_seed_is_the_state():
    split = load_split("pirl_metaworld")
    plans = [make(env=env, task_names=("push-v3",), split=split) for env in range(4)]
    assert all(plan.seed == plan.init_state_id for plan in plans)
    assert len({plan.seed for plan in plans}) == 4


def test_libero_seeds_fit_numpys_legacy_generator():
    assert all(0 <= make(*place).seed < 2**32 for place in everywhere())


@pytest.mark.parametrize("where", [{"episode": 2**14}, {"version": 2**16}, {"version": -1}])
def test_a_counter_that_does_not_fit_an_episode_id_is_refused(where):
    with pytest.raises(ConfigError, match="expected: 0 <= value"):
        make(**where)


def test_stream_seeds_are_63_bit_and_separate_names_types_and_numbers():
    places = [(1, "a"), (1, "b"), (2, "a"), (1, "a", 0), (1, "a", 1), (1, "a", "1"), (1, "a", 11)]
    seeds = [stream_seed(*place) for place in places]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert stream_seed(1, "a") == seeds[0]


def test_stream_seeds_never_change_between_releases():
    assert stream_seed(0, "policy", 1, 2, 3) == 1787221071633994648


def test_evaluation_means_the_same_state_for_the_same_episode():
    split = load_split("libero", mode="heldout")
    few = evaluation_plans(seed=0, task_names=TASKS, split=split, episodes_per_task=3)
    many = evaluation_plans(seed=0, task_names=TASKS, split=split, episodes_per_task=12)
    assert [p.init_state_id for p in few if p.task_id == 4] == [40, 41, 42]
    of_task = [p for p in many if p.task_id == 4]
    assert [p.init_state_id for p in of_task] == [*range(40, 50), 40, 41]
    assert [p.seed for p in of_task[:3]] == [p.seed for p in few if p.task_id == 4]
    assert len({p.seed for p in of_task}) == 12


def test_metaworld_evaluation_never_repeats_an_episode():
    split = load_split("pirl_metaworld", mode="heldout")
    plans = evaluation_plans(seed=0, task_names=("push-v3",), split=split, episodes_per_task=50)
    assert len({plan.seed for plan in plans}) == 50
    with pytest.raises(ConfigError, match="episodes_per_task"):
        evaluation_plans(seed=0, task_names=("a",), split=split, episodes_per_task=2**21)
