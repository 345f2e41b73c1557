"""The door: every form of a wrong rollout is refused with its reason, and a right one passes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch

from pirl.errors import ContractError, FieldError
from pirl.records import EpisodePlan, EpisodeRecord
from pirl.runtime.door import RolloutBounds
from pirl.runtime.store import RolloutStore
from pirl.transport.refusal import RefusedMessageError

E = 4
VERSION = 3
RANK = 1
FIRST = RANK * 2**32 + VERSION * 2**16


def plan(version: int, rank: int, number: int) -> EpisodePlan:
    return EpisodePlan(
        task_id=number % 2, init_state_id=7, seed=11, episode_id=FIRST + number, group_id=-1
    )


def require_scored(info: Any) -> None:
    if not bool(info["pirl_logprob_mask"].all()):
        clause = FieldError(field="pirl_logprob_mask", value="missing", expected="all", fix="")
        raise ContractError([clause])


BOUNDS = RolloutBounds(
    executed_steps=E,
    is_async=False,
    max_control_steps={0: 10, 1: 12},
    sim_steps_per_action=5,
    min_decisions=4,
    max_decisions=9,
    max_held=6,
    constant=("pirl_group_id", "pirl_domain_id", "pirl_input_ids"),
    task_names=("press", "drawer"),
    plan=plan,
    require_scored=require_scored,
)


def an_episode(number: int = 0, *, length: int = 3, success: bool = True) -> list[dict[str, Any]]:
    """Decisions as an honest actor sends them; the last one runs two of its four rows."""
    episode: list[dict[str, Any]] = []
    states = [torch.full((1, 2), float(i + 10 * number)) for i in range(length + 1)]
    for chunk in range(length):
        is_last = chunk == length - 1
        rewards = torch.zeros(1, E)
        rewards[0, 1] = float(is_last and success)
        episode.append(
            {
                "state": {"observation.state": states[chunk]},
                "action": torch.zeros(1, E, 2),
                "reward": float(rewards.sum()),
                "next_state": {"observation.state": states[chunk + 1]},
                "done": is_last and success,
                "truncated": is_last and not success,
                "complementary_info": {
                    "pirl_version": torch.tensor([VERSION]),
                    "pirl_episode_id": torch.tensor([FIRST + number]),
                    "pirl_chunk_idx": torch.tensor([chunk]),
                    "pirl_valid_steps": torch.tensor([2 if is_last else E]),
                    "pirl_group_id": torch.tensor([-1]),
                    "pirl_domain_id": torch.tensor([3]),
                    "pirl_input_ids": torch.tensor([[5, 6]]),
                    "pirl_step_rewards": rewards,
                    "pirl_logprob_mask": torch.ones(1, E, dtype=torch.bool),
                },
            }
        )
    return episode


def a_record(number: int = 0, *, length: int = 3, success: bool = True) -> dict[str, Any]:
    control_steps = (length - 1) * E + 2
    return asdict(
        EpisodeRecord(
            task_id=number % 2,
            task=BOUNDS.task_names[number % 2],
            init_state_id=7,
            seed=11,
            episode_id=FIRST + number,
            policy_version=VERSION,
            env_steps=control_steps * 5,
            decisions=length,
            reward=float(success),
            success=success,
            truncated=not success,
        )
    )


class Rollout:
    """Two honest episodes, to be spoilt."""

    def __init__(self) -> None:
        self.transitions = an_episode(0) + an_episode(1, length=2, success=False)
        self.report = {
            "type": "rollout_done",
            "version": VERSION,
            "rank": RANK,
            "decisions": 5,
            "episodes": [a_record(0), a_record(1, length=2, success=False)],
        }

    def info(self, row: int) -> dict[str, torch.Tensor]:
        return self.transitions[row]["complementary_info"]

    def record(self, row: int) -> dict[str, Any]:
        return self.report["episodes"][row]


def a_store(mode: str = "sync") -> RolloutStore:
    bounds = replace(BOUNDS, is_async=mode == "async")
    store = RolloutStore(actors=2, mode=mode, staleness_threshold=1, bounds=bounds)
    store.begin_version(VERSION)
    return store


def deliver(store: RolloutStore, rollout: Rollout, *, report_first: bool = False) -> None:
    if report_first:
        store.on_interaction(RANK, "a", rollout.report)
    for transition in rollout.transitions:
        store.on_transitions(RANK, "a", [transition], 100)  # pyright: ignore[reportArgumentType]
    if not report_first:
        store.on_interaction(RANK, "a", rollout.report)


@pytest.mark.parametrize("report_first", [True, False])
def test_an_honest_rollout_is_complete(report_first: bool):
    store = a_store()
    deliver(store, Rollout(), report_first=report_first)
    assert store.counters()["held"] == 5
    assert store.counters()["dropped"] == 0
    assert store.owes_since(RANK, "a") is None


def drop(row: int) -> Callable[[Rollout], None]:
    return lambda r: r.transitions.pop(row)


def repeat(row: int) -> Callable[[Rollout], None]:
    return lambda r: r.transitions.insert(row, r.transitions[row])


def set_field(row: int, **values: Any) -> Callable[[Rollout], None]:
    return lambda r: r.transitions[row].update(values)


def set_info(row: int, **values: Any) -> Callable[[Rollout], None]:
    return lambda r: r.info(row).update({k: torch.tensor(v) for k, v in values.items()})


def set_record(row: int, **values: Any) -> Callable[[Rollout], None]:
    return lambda r: r.record(row).update(values)


def set_report(**values: Any) -> Callable[[Rollout], None]:
    return lambda r: r.report.update(values)


def no_record(row: int) -> Callable[[Rollout], None]:
    return lambda r: r.report["episodes"].pop(row)


def end_at(row: int) -> Callable[[Rollout], None]:
    def spoil(rollout: Rollout) -> None:
        rollout.transitions[row]["done"] = True

    return spoil


WRONG: dict[str, tuple[Callable[[Rollout], None], str]] = {
    "first decision missing": (drop(0), "gap"),
    "middle decision missing": (drop(1), "gap"),
    "decision repeated": (repeat(1), "repeat"),
    "last decision repeated": (repeat(4), "after_end"),
    "first decision repeated after the end": (
        lambda r: r.transitions.append(r.transitions[0]),
        "after_end",
    ),
    "done inside": (end_at(0), "after_end"),
    "truncated inside": (set_field(0, truncated=True), "after_end"),
    "done and truncated": (set_field(2, truncated=True), "ending"),
    "never ends": (set_field(2, done=False), "valid_steps"),
    "reward without its steps": (set_field(0, reward=1.0), "reward_sum"),
    "reward a little more than its steps": (set_field(2, reward=1.001), "reward_sum"),
    "huge reward": (set_field(2, reward=1e25), "reward_sum"),
    "step rewards without the reward": (
        set_info(0, pirl_step_rewards=[[1.0, 0, 0, 0]]),
        "reward_sum",
    ),
    "rows left out inside": (set_info(0, pirl_valid_steps=[2]), "valid_steps"),
    "reward after the last row": (set_info(2, pirl_valid_steps=[1]), "valid_steps"),
    "rows that never ran": (set_info(2, pirl_valid_steps=[4]), "env_steps"),
    "episode of another rank": (set_info(0, pirl_episode_id=[2 * 2**32]), "rank"),
    "episode of another version": (set_info(0, pirl_episode_id=[FIRST - 1]), "rank"),
    "episode that no record names": (
        lambda r: [r.info(row).update(pirl_episode_id=torch.tensor([FIRST + 9])) for row in (3, 4)],
        "records",
    ),
    "version of the future": (set_info(0, pirl_version=[VERSION + 1]), "version_from_the_future"),
    "group changes": (set_info(1, pirl_group_id=[4]), "continuity"),
    "instruction changes": (set_info(1, pirl_input_ids=[[5, 7]]), "continuity"),
    "domain changes": (set_info(1, pirl_domain_id=[2]), "continuity"),
    "other state": (set_field(1, state={"observation.state": torch.zeros(1, 2)}), "continuity"),
    "log-prob not scored": (
        lambda r: r.info(0).update(pirl_logprob_mask=torch.zeros(1, E, dtype=torch.bool)),
        "scored",
    ),
    "no record": (set_report(episodes=[]), "records"),
    "one record missing": (no_record(1), "records"),
    "two records of one episode": (
        lambda r: r.report["episodes"].append(r.record(0)),
        "records",
    ),
    "8,000 records of one episode": (
        lambda r: r.report.update(episodes=[r.record(0)] * 8000),
        "records",
    ),
    "announced one more": (set_report(decisions=6), "records"),
    "announced one less": (set_report(decisions=4), "records"),
    "announced nothing": (set_report(decisions=0, episodes=[]), "records"),
    "empty record": (set_record(0, decisions=0), "records"),
    "too small a rollout": (
        lambda r: r.report.update(decisions=3, episodes=[a_record(0)]),
        "size",
    ),
    "too large a rollout": (
        lambda r: r.report.update(decisions=90, episodes=[a_record(0, length=90)]),
        "size",
    ),
    "record with fewer decisions": (
        lambda r: (r.record(0).update(decisions=2), r.record(1).update(decisions=3)),
        "records",
    ),
    "record with another reward": (set_record(0, reward=0.0), "reward_sum"),
    "failure told as success": (set_record(1, success=True, truncated=False), "outcome"),
    "success told as failure": (set_record(0, success=False), "outcome"),
    "10^15 env steps": (set_record(0, env_steps=10**15), "env_steps"),
    "no env steps": (set_record(0, env_steps=0), "env_steps"),
    "negative env steps": (set_record(0, env_steps=-5), "env_steps"),
    "another task": (set_record(0, task_id=1), "schedule"),
    "task that does not exist": (set_record(0, task_id=10**9), "schedule"),
    "task of another name": (set_record(0, task="drawer"), "schedule"),
    "another initial state": (set_record(0, init_state_id=8), "schedule"),
    "another seed": (set_record(0, seed=12), "schedule"),
    "record of another version": (set_record(0, policy_version=VERSION - 1), "schedule"),
    "record of another rank": (set_record(0, episode_id=0), "schedule"),
    "record of no episode of the version": (set_record(0, episode_id=FIRST - 1), "schedule"),
    "longer than the limit of its task": (
        lambda r: (
            r.transitions.__setitem__(slice(0, 3), an_episode(0, length=3)),
            r.info(2).update(pirl_valid_steps=torch.tensor([3])),
            r.record(0).update(env_steps=55),
        ),
        "env_steps",
    ),
    "group that the schedule lacks": (
        lambda r: [r.info(row).update(pirl_group_id=torch.tensor([4])) for row in range(3)],
        "schedule",
    ),
}


@pytest.mark.parametrize("report_first", [True, False])
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rollout_is_refused_by_reason_and_dropped_whole(name: str, report_first: bool):
    spoil, reason = WRONG[name]
    store, rollout = a_store(), Rollout()
    spoil(rollout)
    with pytest.raises(RefusedMessageError) as caught:
        deliver(store, rollout, report_first=report_first)
    # Announced first, a rollout may be complete, or too long, before the wrong decision comes.
    assert caught.value.reason in (reason, "records", "surplus")
    counters = store.counters()
    assert counters["held"] == 0
    assert counters["dropped"] == counters["received"]
    assert counters["dropped"] == counters.get(f"dropped_{caught.value.reason}", 0)


@pytest.mark.parametrize("name", WRONG)
def test_the_reason_names_the_fault_when_decisions_come_first(name: str):
    spoil, reason = WRONG[name]
    store, rollout = a_store(), Rollout()
    spoil(rollout)
    with pytest.raises(RefusedMessageError) as caught:
        deliver(store, rollout)
    assert caught.value.reason == reason


@pytest.mark.parametrize("length", [2, 7])
def test_the_smallest_and_the_largest_rollout_pass(length: int):
    rollout = Rollout()
    rollout.transitions = an_episode(0, length=2) + an_episode(1, length=length, success=False)
    rollout.report["decisions"] = 2 + length
    rollout.report["episodes"] = [a_record(0, length=2), a_record(1, length=length, success=False)]
    bounds = replace(BOUNDS, max_control_steps={0: 10, 1: 30})
    store = RolloutStore(actors=2, mode="sync", staleness_threshold=1, bounds=bounds)
    store.begin_version(VERSION)
    deliver(store, rollout)
    assert store.owes_since(RANK, "a") is None


def test_a_state_that_travelled_as_a_copy_is_the_same_state():
    store, rollout = a_store(), Rollout()
    rollout.transitions[1]["state"] = {
        name: value.clone() for name, value in rollout.transitions[1]["state"].items()
    }
    deliver(store, rollout)
    assert store.owes_since(RANK, "a") is None


@pytest.mark.parametrize("off", [0.0, 0.9e-5])
def test_rewards_agree_where_another_order_of_the_sum_could_explain_it(off: float):
    store, rollout = a_store(), Rollout()
    rollout.transitions[2]["reward"] += off
    rollout.record(1)["reward"] += off
    deliver(store, rollout)
    assert store.owes_since(RANK, "a") is None


def test_a_large_sum_may_be_off_in_proportion():
    store, rollout = a_store(), Rollout()
    rollout.info(2)["pirl_step_rewards"][0, 1] = 1000.0
    rollout.transitions[2]["reward"] = 1000.005
    rollout.record(0)["reward"] = 999.996
    deliver(store, rollout)
    assert store.owes_since(RANK, "a") is None


@pytest.mark.parametrize(("env_steps", "passes"), [(10, True), (50, True), (9, False), (51, False)])
def test_env_steps_are_one_to_a_few_per_control_step(env_steps: int, passes: bool):
    store, rollout = a_store(), Rollout()
    rollout.record(0)["env_steps"] = env_steps
    if passes:
        deliver(store, rollout)
        assert store.owes_since(RANK, "a") is None
        return
    with pytest.raises(RefusedMessageError) as caught:
        deliver(store, rollout)
    assert caught.value.reason == "env_steps"


def test_a_missing_last_decision_leaves_a_debt():
    store, rollout = a_store(), Rollout()
    rollout.transitions.pop()
    deliver(store, rollout)
    assert store.owes_since(RANK, "a") is not None


def test_a_sync_actor_cannot_fill_the_store():
    store = a_store()
    rows: Any = [row for number in range(20) for row in an_episode(number)]
    for row in rows[:9]:
        store.on_transitions(RANK, "a", [row], 100)
    with pytest.raises(RefusedMessageError, match="more than the 9 decisions"):
        store.on_transitions(RANK, "a", rows[9:10], 100)
    assert store.counters()["dropped_surplus"] == store.counters()["received"] == 10


def test_an_async_actor_that_is_ahead_waits_until_an_update_has_taken_its_decisions():
    store = a_store("async")
    for number in range(2):
        store.on_transitions(RANK, "a", an_episode(number), 100)  # pyright: ignore[reportArgumentType]
        report = {"version": VERSION, "decisions": 3, "episodes": [a_record(number)]}
        store.on_interaction(RANK, "a", {"type": "rollout_done", "rank": RANK, **report})
    entered, passed = threading.Event(), threading.Event()

    def goes_on() -> bool:
        entered.set()
        return True

    def wait() -> None:
        store.wait_for_room(RANK, goes_on=goes_on)
        passed.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    assert entered.wait(10)
    assert not passed.is_set()
    taken = store.take(min_decisions=4, timeout_s=1.0, stop=threading.Event())
    assert taken is not None
    assert len(taken.transitions) == 6
    store.begin_version(VERSION + 1)
    assert passed.wait(10)
    waiter.join(10)


def test_nobody_waits_for_room_that_is_no_longer_wanted():
    store = a_store("async")
    for number in range(2):
        store.on_transitions(RANK, "a", an_episode(number), 100)  # pyright: ignore[reportArgumentType]
    store.wait_for_room(RANK, goes_on=lambda: False)


def test_an_async_episode_is_consumed_once_even_when_its_actor_repeats_it():
    store = a_store("async")
    report = {"type": "rollout_done", "rank": RANK, "version": VERSION, "decisions": 3}
    store.on_transitions(RANK, "a", an_episode(), 100)  # pyright: ignore[reportArgumentType]
    # One episode may be smaller than a rollout.
    store.on_interaction(RANK, "a", {**report, "episodes": [a_record()]})
    assert store.take(min_decisions=3, timeout_s=1.0, stop=threading.Event()) is not None
    with pytest.raises(RefusedMessageError, match="after it was used"):
        store.on_transitions(RANK, "a", an_episode(), 100)  # pyright: ignore[reportArgumentType]
