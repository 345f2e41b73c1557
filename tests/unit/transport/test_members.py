"""Membership: ranks are exclusive, a loss is told once, a silent member frees its rank."""

from __future__ import annotations

import time

import pytest

from pirl.transport.members import FullError, Members, TakenError


class ACall:
    def __init__(self) -> None:
        self.cancelled = 0

    def cancel(self) -> bool:
        self.cancelled += 1
        return True


class Losses(list[tuple[int, str, str]]):
    def __call__(self, rank: int, actor_id: str, reason: str) -> None:
        self.append((rank, actor_id, reason))


def members(actors: int = 2) -> tuple[Members, Losses]:
    losses = Losses()
    return Members(actors=actors, on_lost=losses), losses


def test_one_call_after_another_of_the_same_actor_is_the_same_member():
    group, _ = members()
    first = group.admit(0, "a", anew=True)
    assert group.admit(0, "a", anew=False) is first
    assert group.admit(0, "a", anew=True) is first
    assert group.alive() == [first]


@pytest.mark.parametrize("rank", [2, -1, 10**6])
def test_a_rank_outside_the_run_is_refused(rank: int):
    group, _ = members(2)
    with pytest.raises(FullError, match="takes 2 actors"):
        group.admit(rank, "a", anew=True)


def test_a_rank_of_a_living_actor_is_refused_and_named():
    group, losses = members()
    group.admit(1, "a", anew=True)
    with pytest.raises(TakenError, match="living actor 'a'"):
        group.admit(1, "b", anew=True)
    assert losses == []


def test_a_member_whose_last_call_ended_is_lost_and_its_rank_is_free():
    group, losses = members()
    member = group.admit(0, "a", anew=True)
    calls = [ACall(), ACall()]
    for call in calls:
        group.attach(member, call, is_upload=True)
    group.detach(member, calls[0])
    assert losses == []
    group.detach(member, calls[1])
    assert losses == [(0, "a", "connection closed")]
    assert group.admit(0, "b", anew=True) is not member


def test_a_goodbye_is_the_reason_of_the_loss():
    group, losses = members()
    member = group.admit(0, "a", anew=True)
    call = ACall()
    group.attach(member, call, is_upload=True)
    member.said_goodbye = True
    group.detach(member, call)
    assert losses == [(0, "a", "goodbye")]


def test_a_loss_is_told_once_and_ends_the_calls():
    group, losses = members()
    member = group.admit(0, "a", anew=True)
    call = ACall()
    group.attach(member, call, is_upload=True)
    group.lose(member, "why")
    group.lose(member, "again")
    group.detach(member, call)
    assert losses == [(0, "a", "why")]
    assert call.cancelled == 1


def test_a_lost_member_cannot_open_another_call():
    group, _ = members()
    member = group.admit(0, "a", anew=True)
    group.lose(member, "why")
    with pytest.raises(TakenError, match="given up: why"):
        group.attach(member, ACall(), is_upload=True)


def test_an_actor_that_comes_back_is_a_new_incarnation():
    group, losses = members()
    old = group.admit(0, "a", anew=True)
    call = ACall()
    group.attach(old, call, is_upload=True)
    new = group.admit(0, "a", anew=True)
    assert new is not old
    assert call.cancelled == 1
    assert losses == [(0, "a", "came back in a new incarnation")]
    group.detach(old, call)
    assert group.alive() == [new]


def test_only_the_silent_member_is_given_up():
    group, losses = members()
    silent, loud = group.admit(0, "a", anew=True), group.admit(1, "b", anew=True)
    silent.last_seen = time.monotonic() - 5.0
    group.sweep(2.0)
    assert [loss[:2] for loss in losses] == [(0, "a")]
    assert "silent for 5" in losses[0][2]
    assert group.alive() == [loud]


def test_a_download_of_a_lost_member_may_say_why_before_it_is_cut_off():
    group, _ = members()
    member = group.admit(0, "a", anew=True)
    upload, download = ACall(), ACall()
    group.attach(member, upload, is_upload=True)
    group.attach(member, download, is_upload=False)
    group.lose(member, "why")
    group.sweep(60.0)
    assert (upload.cancelled, download.cancelled) == (1, 0)
    member.lost_at -= 10.0
    group.sweep(60.0)
    assert download.cancelled == 1


def test_a_lost_member_whose_calls_ended_is_not_looked_at_again():
    group, _ = members()
    member = group.admit(0, "a", anew=True)
    download = ACall()
    group.attach(member, download, is_upload=False)
    group.lose(member, "why")
    group.detach(member, download)
    member.lost_at -= 10.0
    group.sweep(60.0)
    assert download.cancelled == 0


def test_a_learner_that_stood_still_itself_judges_nobody_for_another_timeout():
    group, losses = members()
    member = group.admit(0, "a", anew=True)
    group._last_sweep -= 10.0
    member.last_seen -= 10.0
    group.sweep(2.0)
    assert losses == []
    member.last_seen -= 10.0
    group.sweep(2.0)
    assert [loss[:2] for loss in losses] == [(0, "a")]
