"""The rollout store: consumed once, dropped with a reason, never mixed."""

from __future__ import annotations

import threading

import pytest
import torch
from rollout_toys import INPUTS

from pirl.errors import LinkClosedError, TransportError
from pirl.runtime.batch import build_batch
from pirl.runtime.door import Rollout
from pirl.runtime.store import RolloutStore
from pirl.transport.refusal import RefusedMessageError

STOP = threading.Event()


def a_transition(*, version: int = 0, episode: int = 0, chunk: int = 0, done: bool = False):
    return {
        "state": {
            "observation.images.image": torch.zeros(1, 3, 2, 2, dtype=torch.uint8),
            "observation.state": torch.full((1, 4), float(chunk)),
        },
        "action": torch.zeros(1, 2, 4),
        "reward": 1.0 if done else 0.0,
        "next_state": {
            "observation.images.image": torch.zeros(1, 3, 2, 2, dtype=torch.uint8),
            "observation.state": torch.full((1, 4), chunk + 1.0),
        },
        "done": done,
        "truncated": False,
        "complementary_info": {
            "pirl_version": torch.tensor([version]),
            "pirl_episode_id": torch.tensor([episode]),
            "pirl_chunk_idx": torch.tensor([chunk]),
            "pirl_input_ids": torch.zeros(1, 3, dtype=torch.int64),
            "pirl_domain_id": torch.tensor([0]),
        },
    }


def an_episode(*, version: int = 0, episode: int = 0, length: int = 2):
    return [
        a_transition(version=version, episode=episode, chunk=i, done=i == length - 1)
        for i in range(length)
    ]


def a_record(*, episode: int = 0, version: int = 0, decisions: int = 2, **changes):
    return {
        "task_id": 0,
        "task": "press",
        "init_state_id": 0,
        "seed": 0,
        "episode_id": episode,
        "policy_version": version,
        "env_steps": decisions,
        "decisions": decisions,
        "reward": 1.0,
        "success": True,
        "truncated": False,
    } | changes


def a_report(*, version: int = 0, rank: int = 0, decisions: int = 2, episodes=None):
    episodes = [rank << 32] if episodes is None else episodes
    return {
        "type": "rollout_done",
        "version": version,
        "rank": rank,
        "decisions": decisions,
        "episodes": [
            a_record(episode=episode, version=version, decisions=decisions // len(episodes))
            for episode in episodes
        ],
    }


def deliver_episode(store: RolloutStore, actor_id: str, *, version: int = 0, episode: int = 0):
    """One episode of two decisions and its report, as an async actor sends them."""
    store.on_transitions(0, actor_id, an_episode(version=version, episode=episode), 10)
    store.on_interaction(0, actor_id, a_report(version=version, episodes=[episode]))


def a_store(*, actors: int = 1, mode: str = "sync", staleness: int = 0) -> RolloutStore:
    return RolloutStore(actors=actors, mode=mode, staleness_threshold=staleness)


def take(store: RolloutStore, *, min_decisions: int = 1, timeout_s: float = 0.3):
    """What an update gets that then uses it."""
    taken = store.take(min_decisions=min_decisions, timeout_s=timeout_s, stop=STOP)
    store.consume()
    return taken


def test_a_rollout_is_taken_once_it_is_complete_and_only_once():
    store = a_store()
    store.on_transitions(0, "a", an_episode(), 10)
    store.on_interaction(0, "a", a_report())
    taken = take(store)
    assert len(taken.transitions) == 2
    assert store.counters()["consumed"] == 2
    with pytest.raises(LinkClosedError, match="version 0"):
        take(store)


def test_the_report_may_overtake_the_decisions():
    store = a_store()
    store.on_interaction(0, "a", a_report())
    store.on_transitions(0, "a", an_episode(), 10)
    assert len(take(store).transitions) == 2


def test_an_incomplete_rollout_is_not_taken():
    store = a_store()
    store.on_transitions(0, "a", an_episode(), 10)
    with pytest.raises(LinkClosedError, match="2/\\?"):
        take(store)


def test_every_rank_must_have_delivered():
    store = a_store(actors=2)
    store.on_transitions(0, "a", an_episode(), 10)
    store.on_interaction(0, "a", a_report())
    with pytest.raises(LinkClosedError):
        take(store)
    store.on_transitions(1, "b", an_episode(episode=1 << 32), 10)
    store.on_interaction(1, "b", a_report(rank=1, episodes=[1 << 32]))
    assert len(take(store).transitions) == 4


def test_stale_versions_are_counted_and_dropped_in_sync_mode():
    store = a_store()
    store.begin_version(1)
    store.on_transitions(0, "a", an_episode(version=0), 10)
    counters = store.counters()
    assert counters["received"] == counters["dropped"] == counters["dropped_stale"] == 2


def test_a_version_that_was_never_published_is_refused_with_all_that_its_actor_sent():
    store = a_store()
    store.on_transitions(0, "a", an_episode(), 10)
    with pytest.raises(RefusedMessageError, match="version 2"):
        store.on_transitions(0, "a", an_episode(version=2), 10)
    counters = store.counters()
    assert counters["received"] == counters["dropped_version_from_the_future"] == 4


def test_what_was_dropped_does_not_put_the_deadline_off():
    store = a_store()
    store.on_transitions(0, "a", an_episode(), 10)
    store._begun -= 10.0
    for version in (0, 0):
        with pytest.raises(RefusedMessageError):
            store.on_transitions(0, "b", an_episode(version=version)[1:], 10)
    store.on_actor_refused(0, "a", "gap")
    with pytest.raises(LinkClosedError, match="no usable decision"):
        take(store, timeout_s=5.0)


@pytest.mark.parametrize("rest", ["decision", "report"])
def test_more_of_a_version_that_was_used_is_refused(rest: str):
    store = a_store()
    store.on_transitions(0, "a", an_episode(), 10)
    store.on_interaction(0, "a", a_report())
    take(store)
    deliver = {
        "decision": lambda: store.on_transitions(0, "a", an_episode(episode=1), 10),
        "report": lambda: store.on_interaction(0, "a", a_report()),
    }
    with pytest.raises(RefusedMessageError, match="after it was used"):
        deliver[rest]()
    # Another actor of the rank may not know yet that its predecessor had delivered.
    store.on_transitions(0, "b", an_episode(), 10)
    assert store.counters()["dropped_superseded"] == 2


def test_a_refused_actor_costs_the_others_nothing_and_its_replacement_delivers():
    store = a_store(actors=2)
    store.on_transitions(0, "a", an_episode(), 10)
    store.on_interaction(0, "a", a_report())
    store.on_transitions(1, "b", an_episode(episode=1 << 32), 10)
    with pytest.raises(RefusedMessageError):
        store.on_transitions(1, "b", an_episode(episode=1 << 32), 10)
    store.on_actor_lost(1, "b", "refused")
    store.on_transitions(1, "c", an_episode(episode=1 << 32), 10)
    store.on_interaction(1, "c", a_report(rank=1, episodes=[1 << 32]))
    assert len(take(store).transitions) == 4
    counters = store.counters()
    assert counters["dropped_after_end"] == 4
    assert counters["received"] == counters["consumed"] + counters["dropped"]


def test_an_announcement_without_its_decisions_is_a_debt():
    store = a_store()
    store.on_transitions(0, "a", an_episode()[:1], 10)
    assert store.owes_since(0, "a") is None
    store.on_interaction(0, "a", a_report())
    assert store.owes_since(0, "a") is not None
    store.on_transitions(0, "a", an_episode()[1:], 10)
    assert store.owes_since(0, "a") is None


def test_an_async_episode_without_its_announcement_is_a_debt():
    store = a_store(mode="async", staleness=1)
    store.on_transitions(0, "a", an_episode(), 10)
    assert store.owes_since(0, "a") is not None


def test_a_lost_actor_leaves_nothing_half_done_and_its_replacement_delivers_anew():
    store = a_store()
    store.on_transitions(0, "a", an_episode(length=2)[:1], 10)
    store.on_actor_lost(0, "a", "killed")
    store.on_transitions(0, "b", an_episode(), 10)
    store.on_interaction(0, "b", a_report())
    assert len(take(store).transitions) == 2
    assert store.counters()["dropped_actor_lost"] == 1


def test_a_complete_rollout_of_a_lost_actor_is_kept_and_a_second_copy_is_superseded():
    store = a_store(actors=2)
    store.on_transitions(0, "a", an_episode(), 10)
    store.on_interaction(0, "a", a_report())
    store.on_actor_lost(0, "a", "killed after its rollout")
    store.on_transitions(0, "b", an_episode(), 10)
    store.on_interaction(0, "b", a_report())
    store.on_transitions(1, "c", an_episode(episode=1 << 32), 10)
    store.on_interaction(1, "c", a_report(rank=1, episodes=[1 << 32]))
    assert len(take(store).transitions) == 4
    counters = store.counters()
    assert counters["dropped_superseded"] == 2
    assert counters["received"] == counters["consumed"] + counters["dropped"]


# -- an update that cannot use what it took --------------------------------------------------------


def deliver(store: RolloutStore, rank: int, actor_id: str, *, version: int = 0):
    """The whole rollout of a `sync` actor: one episode of two decisions."""
    episode = rank << 32
    store.on_transitions(rank, actor_id, an_episode(version=version, episode=episode), 10)
    store.on_interaction(rank, actor_id, a_report(version=version, rank=rank, episodes=[episode]))


def a_refused_pair():
    """Two ranks were taken, the episode of rank 1 was refused."""
    store = a_store(actors=2)
    deliver(store, 0, "honest")
    deliver(store, 1, "liar")
    store.take(min_decisions=1, timeout_s=0.3, stop=STOP)
    return store, store.refuse_taken({1 << 32}, "log_prob")


def test_what_was_taken_is_held_until_the_update_has_used_it():
    store = a_store()
    deliver(store, 0, "a")
    store.take(min_decisions=1, timeout_s=0.3, stop=STOP)
    assert (store.counters()["held"], store.counters()["consumed"]) == (2, 0)
    store.consume()
    assert (store.counters()["held"], store.counters()["consumed"]) == (0, 2)


def test_refused_episodes_name_their_sender_and_the_rest_waits_for_the_replacement():
    store, senders = a_refused_pair()
    assert senders == {(1, "liar"): [1 << 32]}
    assert store.counters()["dropped_log_prob"] == 2
    assert store.counters()["held"] == 2
    deliver(store, 1, "replacement")
    assert len(take(store).transitions) == 4
    counters = store.counters()
    assert counters["received"] == counters["consumed"] + counters["dropped"] == 6


def test_the_wait_for_a_replacement_has_its_deadline_and_says_what_was_dropped():
    store, _ = a_refused_pair()
    with pytest.raises(LinkClosedError, match="dropped so far: 2 log_prob"):
        take(store)


def test_a_replacement_that_delivers_while_its_predecessor_is_looked_at_is_not_turned_away():
    store = a_store(actors=2)
    deliver(store, 0, "honest")
    deliver(store, 1, "liar")
    store.take(min_decisions=1, timeout_s=0.3, stop=STOP)
    store.on_actor_lost(1, "liar", "killed")
    deliver(store, 1, "replacement")
    store.refuse_taken({1 << 32}, "log_prob")
    assert len(take(store).transitions) == 4


def test_an_actor_that_comes_back_during_the_update_of_its_rollout_is_no_offender():
    store = a_store()
    deliver(store, 0, "a")
    store.take(min_decisions=1, timeout_s=0.3, stop=STOP)
    store.on_actor_lost(0, "a", "reset")
    deliver(store, 0, "a")
    store.consume()
    deliver(store, 0, "a")
    counters = store.counters()
    assert (counters["consumed"], counters["dropped_superseded"]) == (2, 4)


def test_an_async_actor_that_comes_back_during_the_update_adds_no_episode_twice():
    store = a_store(mode="async")
    deliver_episode(store, "a")
    store.take(min_decisions=1, timeout_s=0.3, stop=STOP)
    store.on_actor_lost(0, "a", "reset")
    deliver_episode(store, "a")
    store.consume()
    deliver_episode(store, "a")
    counters = store.counters()
    assert (counters["consumed"], counters["dropped_superseded"]) == (2, 4)


def test_an_async_episode_that_was_refused_is_played_by_another_actor():
    store = a_store(mode="async")
    deliver_episode(store, "liar", episode=0)
    deliver_episode(store, "liar", episode=1)
    store.take(min_decisions=1, timeout_s=0.3, stop=STOP)
    assert store.refuse_taken([1], "log_prob") == {(0, "liar"): [1]}
    store.on_actor_lost(0, "liar", "refused")
    deliver_episode(store, "replacement", episode=1)
    assert len(take(store).transitions) == 4


def test_actors_that_come_and_go_do_not_fill_the_memory_with_copies():
    store = a_store(actors=2)
    for number in range(10):
        deliver(store, 0, f"a{number}")
        store.on_actor_lost(0, f"a{number}", "left")
    assert store.counters()["held"] == 2 * 4
    assert store.counters()["dropped_superseded"] == 2 * 6


@pytest.mark.parametrize("report_first", [True, False])
def test_more_decisions_than_announced_are_refused_and_dropped(report_first: bool):
    store = a_store()
    three = [*an_episode(), *an_episode(episode=1)[:1]]
    deliveries = [
        lambda: store.on_transitions(0, "a", three, 10),
        lambda: store.on_interaction(0, "a", a_report(decisions=2)),
    ]
    if report_first:
        deliveries.reverse()
    deliveries[0]()
    with pytest.raises(RefusedMessageError, match="announced") as caught:
        deliveries[1]()
    assert caught.value.reason == "surplus"
    assert store.counters()["dropped_surplus"] == store.counters()["received"] == 3


def versions_of(transitions):
    return [int(t["complementary_info"]["pirl_version"]) for t in transitions]


def test_async_takes_admissible_episodes_with_their_own_records():
    store = a_store(mode="async", staleness=1)
    store.begin_version(2)
    for version in range(3):
        deliver_episode(store, "a", version=version, episode=version)
    taken = take(store, min_decisions=4)
    assert versions_of(taken.transitions) == [1, 1, 2, 2]
    assert [record.episode_id for record in taken.episodes] == [1, 2]
    assert store.counters()["dropped_stale"] == 2


def test_async_drops_what_grew_too_old_while_it_waited():
    store = a_store(mode="async", staleness=1)
    deliver_episode(store, "a", version=0)
    store.begin_version(1)
    assert store.counters()["held"] == 2
    store.begin_version(2)
    assert store.counters()["dropped_stale"] == 2


def test_async_waits_for_the_rest_of_an_episode_that_travels_in_several_messages():
    store = a_store(mode="async", staleness=1)
    deliver_episode(store, "a", episode=0)
    store.on_transitions(0, "a", an_episode(episode=1, length=3)[:2], 10)
    taken = take(store, min_decisions=2)
    assert [record.episode_id for record in taken.episodes] == [0]
    store.on_transitions(0, "a", an_episode(episode=1, length=3)[2:], 10)
    with pytest.raises(LinkClosedError):
        take(store, min_decisions=3)
    store.on_interaction(0, "a", a_report(decisions=3, episodes=[1]))
    assert len(take(store, min_decisions=3).transitions) == 3


@pytest.mark.parametrize("consumed_before", [True, False])
def test_async_plays_no_episode_twice_when_an_actor_is_replaced(consumed_before: bool):
    store = a_store(mode="async", staleness=1)
    deliver_episode(store, "a", episode=0)
    store.on_transitions(0, "a", an_episode(episode=1)[:1], 10)
    if consumed_before:
        take(store)
    store.on_actor_lost(0, "a", "killed")
    deliver_episode(store, "b", episode=0)
    deliver_episode(store, "b", episode=1)
    taken = take(store)
    assert [record.episode_id for record in taken.episodes] == [1] if consumed_before else [0, 1]
    counters = store.counters()
    assert (counters["dropped_superseded"], counters["dropped_actor_lost"]) == (2, 1)
    assert counters["received"] == counters["consumed"] + counters["dropped"]


@pytest.mark.parametrize("episodes", [(), (0, 1)])
def test_an_async_report_about_anything_but_one_episode_is_refused(episodes):
    store = a_store(mode="async", staleness=1)
    with pytest.raises(TransportError, match="reports each by itself"):
        store.on_interaction(0, "a", a_report(episodes=episodes))


def test_an_actor_that_comes_back_and_repeats_a_complete_rollout_adds_nothing_to_it():
    store = a_store()
    for _ in range(2):
        store.on_transitions(0, "a", an_episode(), 10)
        store.on_interaction(0, "a", a_report())
        store.on_actor_lost(0, "a", "came back in a new incarnation")
    assert len(take(store).transitions) == 2
    assert store.counters()["dropped_superseded"] == 2


def test_a_checkpoint_counts_only_what_is_settled():
    store = a_store()
    store.on_transitions(0, "a", an_episode(), 10)
    store.on_interaction(0, "a", a_report())
    take(store)
    settled = store.settled_counters()
    store.begin_version(1)
    store.on_transitions(0, "a", an_episode(version=1), 10)
    later = store.settled_counters()
    assert later | {"bytes_received": 10} == settled
    assert store.counters()["held"] == 2


def test_a_stop_ends_the_wait_without_data():
    stop = threading.Event()
    stop.set()
    assert a_store().take(min_decisions=1, timeout_s=5.0, stop=stop) is None


def test_restored_counters_close_the_books():
    store = a_store()
    store.on_transitions(0, "a", an_episode(), 10)
    store.on_interaction(0, "a", a_report())
    take(store)
    other = a_store()
    other.restore_counters(store.counters())
    assert other.counters() == store.counters()


def test_a_batch_is_sorted_by_episode_and_chunk_whatever_the_arrival_order():
    data = an_episode(episode=5, length=3) + an_episode(episode=2, length=2)
    forward = build_batch(data, policy_version=0, inputs=INPUTS)
    backward = build_batch(list(reversed(data)), policy_version=0, inputs=INPUTS)
    assert torch.equal(forward.observation.state, backward.observation.state)
    assert forward.fields["pirl_episode_id"].tolist() == [2, 2, 5, 5, 5]


@pytest.mark.parametrize("missing", [0, 1])
def test_an_episode_with_a_gap_is_refused(missing: int):
    data = an_episode(length=3)
    del data[missing]
    with pytest.raises(TransportError, match="gap or a repeated"):
        build_batch(data, policy_version=0, inputs=INPUTS)


def test_a_repeated_decision_is_refused():
    data = an_episode(length=2)
    with pytest.raises(TransportError, match="gap or a repeated"):
        build_batch([*data, data[-1]], policy_version=0, inputs=INPUTS)


def test_no_decision_is_no_batch():
    with pytest.raises(TransportError, match="no decision"):
        build_batch([], policy_version=0, inputs=INPUTS)


def test_counters_say_where_every_decision_went():
    store = a_store(actors=2)
    store.on_transitions(0, "a", an_episode(), 10)
    store.on_transitions(1, "b", an_episode(episode=1 << 32, length=3), 32)
    assert store.counters() == {
        "received": 5,
        "consumed": 0,
        "dropped": 0,
        "held": 5,
        "bytes_received": 42,
    }
    store.on_interaction(0, "a", a_report())
    store.on_interaction(1, "b", a_report(rank=1, decisions=3))
    take(store)
    assert store.counters()["consumed"] == 5
    assert store.counters()["held"] == 0


def test_restored_counters_keep_every_reason_and_add_up():
    store = a_store()
    counters = {
        "received": 9,
        "consumed": 4,
        "dropped": 5,
        "held": 0,
        "bytes_received": 42,
        "dropped_actor_lost": 2,
        "dropped_superseded": 3,
    }
    store.restore_counters(counters)
    assert store.counters() == counters


def test_what_is_held_when_a_run_ends_is_dropped_with_the_reason():
    store = a_store(actors=2)
    store.on_transitions(0, "a", an_episode(), 10)
    store.on_transitions(1, "b", an_episode(episode=1 << 32, length=3), 10)
    store.drop_held("run_ended")
    counters = store.counters()
    assert (counters["held"], counters["dropped_run_ended"]) == (0, 5)
    assert counters["received"] == counters["consumed"] + counters["dropped"]


def test_the_loss_of_an_actor_touches_nobody_else():
    store = a_store(actors=2)
    store.on_transitions(0, "a", an_episode(), 10)
    store.on_transitions(1, "b", an_episode(episode=1 << 32)[:1], 10)
    store.on_actor_lost(1, "b", "killed")
    store.on_interaction(0, "a", a_report())
    store.on_transitions(1, "c", an_episode(episode=1 << 32), 10)
    store.on_interaction(1, "c", a_report(rank=1))
    assert len(take(store).transitions) == 4
    assert store.counters()["dropped_actor_lost"] == 1


def test_an_async_actor_that_comes_back_plays_no_finished_episode_again():
    store = a_store(mode="async", staleness=1)
    deliver_episode(store, "a", episode=0)
    store.on_actor_lost(0, "a", "came back in a new incarnation")
    deliver_episode(store, "a", episode=0)
    assert len(take(store).transitions) == 2
    assert store.counters()["dropped_superseded"] == 2


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_nothing_is_no_update_even_where_nothing_is_asked_for(mode: str):
    with pytest.raises(LinkClosedError, match="have: nothing"):
        take(a_store(mode=mode, staleness=1), min_decisions=0)


def test_what_is_missing_is_named_by_version_and_rank():
    store = a_store(actors=2)
    store.on_interaction(1, "b", a_report(rank=1, decisions=3))
    store.on_transitions(0, "a", an_episode(), 10)
    with pytest.raises(LinkClosedError, match=r"version 0 rank 0: 2/\?, version 0 rank 1: 0/3"):
        take(store)
    with pytest.raises(LinkClosedError, match=r"have: nothing; dropped so far: none$"):
        take(a_store(), timeout_s=0.0)


def test_who_was_refused_after_its_rollout_was_taken_is_named_where_nobody_comes():
    store = a_store()
    deliver(store, 0, "liar")
    store.take(min_decisions=1, timeout_s=0.3, stop=STOP)
    store.refuse_taken({0}, "log_prob")
    with pytest.raises(LinkClosedError, match="given up: rank 0 for log_prob"):
        store.take(
            min_decisions=1,
            timeout_s=60.0,
            stop=STOP,
            replacement_s=0.0,
            has_actors=lambda: False,
        )


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_an_actor_that_comes_back_after_the_update_of_its_rollout_is_no_offender(mode: str):
    store = a_store(mode=mode)
    deliver_episode(store, "a")
    assert len(take(store).transitions) == 2
    store.on_actor_lost(0, "a", "reset")
    deliver_episode(store, "a")
    counters = store.counters()
    assert (counters["consumed"], counters["dropped_superseded"]) == (2, 2)


def test_data_that_is_there_is_taken_although_a_stop_was_asked_for():
    stop = threading.Event()
    stop.set()
    store = a_store()
    store.on_transitions(0, "a", an_episode(), 10)
    store.on_interaction(0, "a", a_report())
    assert len(store.take(min_decisions=1, timeout_s=5.0, stop=stop).transitions) == 2


def test_a_waiting_take_lets_decisions_in():
    store, taken = a_store(), []
    waiting = threading.Thread(target=lambda: taken.append(take(store, timeout_s=20.0)))
    waiting.start()
    store.on_transitions(0, "a", an_episode(), 10)
    store.on_interaction(0, "a", a_report())
    waiting.join(timeout=20.0)
    assert [len(one.transitions) for one in taken] == [2]


def test_a_heartbeat_announces_nothing():
    store = a_store()
    store.on_transitions(0, "a", an_episode(), 10)
    store.on_interaction(0, "a", {"type": "heartbeat"} | {"version": 0, "decisions": 2})
    with pytest.raises(LinkClosedError, match=r"2/\?"):
        take(store)


def test_a_report_about_a_version_that_is_over_is_forgotten():
    store = a_store()
    store.begin_version(1)
    store.on_interaction(0, "a", a_report(version=0))
    with pytest.raises(LinkClosedError, match="have: nothing"):
        take(store)


def test_async_waits_until_complete_episodes_have_enough_decisions_together():
    store = a_store(mode="async", staleness=1)
    deliver_episode(store, "a", episode=0)
    with pytest.raises(LinkClosedError):
        take(store, min_decisions=3)
    deliver_episode(store, "a", episode=1)
    assert len(take(store, min_decisions=3).transitions) == 4


def test_async_keeps_what_is_incomplete_for_the_next_update():
    store = a_store(mode="async", staleness=1)
    deliver_episode(store, "a", episode=0)
    store.on_transitions(0, "a", an_episode(episode=1)[:1], 10)
    take(store)
    assert store.counters()["held"] == 1


def test_a_record_travels_with_its_rollout():
    store = a_store(actors=2)
    for rank, actor in enumerate("ab"):
        store.on_transitions(rank, actor, an_episode(episode=rank << 32), 10)
        store.on_interaction(rank, actor, a_report(rank=rank))
    taken = take(store)
    assert [record.episode_id for record in taken.episodes] == [0, 1 << 32]
    assert [record.decisions for record in taken.episodes] == [2, 2]


@pytest.mark.parametrize("name", ["pirl_version", "pirl_episode_id"])
def test_a_decision_without_its_identifiers_is_an_error(name: str):
    (transition,) = an_episode(length=1)
    del transition["complementary_info"][name]
    with pytest.raises(KeyError, match=name):
        a_store().on_transitions(0, "a", [transition], 10)


def test_a_decision_without_any_information_lacks_its_identifiers():
    (transition,) = an_episode(length=1)
    del transition["complementary_info"]
    with pytest.raises(KeyError, match="pirl_version"):
        a_store().on_transitions(0, "a", [transition], 10)
    with pytest.raises(KeyError, match="pirl_episode_id"):
        Rollout(rank=0, version=0, changed=0.0).add(transition, None)


def test_a_rank_that_was_used_is_used_whoever_delivers_it_again():
    store = a_store(actors=2)
    for rank, actor in enumerate("ab"):
        store.on_transitions(rank, actor, an_episode(episode=rank << 32), 10)
        store.on_interaction(rank, actor, a_report(rank=rank))
    take(store)
    store.on_transitions(1, "c", an_episode(episode=1 << 32), 10)
    assert store.counters()["dropped_superseded"] == 2


def test_an_async_actor_goes_on_with_a_version_of_which_an_episode_was_used():
    store = a_store(mode="async", staleness=1)
    deliver_episode(store, "a", episode=0)
    take(store)
    deliver_episode(store, "a", episode=1)
    assert len(take(store).transitions) == 2


@pytest.mark.parametrize(("under_way", "passes"), [(8191, True), (8192, False)])
def test_an_async_actor_has_at_most_8192_episodes_under_way(under_way: int, passes: bool):
    store = a_store(mode="async", staleness=1)
    store._rollouts = {
        (0, 0, "a", 1 + number): Rollout(rank=0, version=0, changed=0.0)
        for number in range(under_way)
    }
    if passes:
        deliver_episode(store, "a", episode=0)
        assert len(take(store).transitions) == 2
        return
    with pytest.raises(RefusedMessageError, match="8192"):
        deliver_episode(store, "a", episode=0)


DOORS = {
    "on_transitions": lambda store: store.on_transitions(0, "a", an_episode(), 10),
    "on_interaction": lambda store: store.on_interaction(0, "a", a_report()),
    "on_actor_lost": lambda store: store.on_actor_lost(0, "a", "killed"),
    "on_actor_refused": lambda store: store.on_actor_refused(0, "a", "gap"),
    "owes_since": lambda store: store.owes_since(0, "a"),
    "begin_version": lambda store: store.begin_version(1),
    "consume": lambda store: store.consume(),
    "refuse_taken": lambda store: store.refuse_taken([], "log_prob"),
    "counters": lambda store: store.counters(),
    "settled_counters": lambda store: store.settled_counters(),
    "restore_counters": lambda store: store.restore_counters({"consumed": 0, "bytes_received": 0}),
    "drop_held": lambda store: store.drop_held("run_ended"),
}


@pytest.mark.parametrize("door", DOORS)
def test_no_door_is_open_while_another_thread_is_inside(door: str):
    store = a_store()
    inside = threading.Thread(target=DOORS[door], args=[store])
    with store._ready:
        inside.start()
        inside.join(timeout=0.05)
        assert inside.is_alive()
    inside.join(timeout=20.0)
    assert not inside.is_alive()


def test_settled_counters_count_what_was_dropped_as_received():
    store = a_store()
    store.on_transitions(0, "a", an_episode(), 10)
    store.on_interaction(0, "a", a_report())
    take(store)
    store.begin_version(1)
    store.on_transitions(0, "a", an_episode(version=0, length=3), 10)
    settled = store.settled_counters()
    assert (settled["received"], settled["consumed"], settled["dropped"]) == (5, 2, 3)
