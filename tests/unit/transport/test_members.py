"""Membership: ranks are exclusive, a loss is told once, a silent member frees its rank."""

from __future__ import annotations

import time

import pytest

from pirl.transport.members import (
    CALLS_PER_MEMBER,
    CrowdedError,
    FullError,
    GivenUpError,
    Member,
    Members,
    StrangerError,
    TakenError,
)


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


def enter(group: Members, rank: int, actor_id: str) -> Member:
    """First contact and the first call after it."""
    return group.admit(rank, actor_id, group.contact(rank, actor_id, None))


def test_one_call_after_another_of_the_same_actor_is_the_same_member():
    group, _ = members()
    secret = group.contact(0, "a", None)
    first = group.admit(0, "a", secret)
    assert group.admit(0, "a", secret) is first
    assert group.alive() == [first]


def test_a_contact_alone_takes_up_no_place():
    group, losses = members()
    for _ in range(100):
        group.contact(0, "a", None)
    assert group.alive() == []
    assert enter(group, 0, "b").actor_id == "b"
    assert losses == []


@pytest.mark.parametrize("given", [None, "", ".", "0.0", "another rank", "another actor", "old"])
def test_without_the_secret_of_its_own_a_name_is_worthless(given: str | None):
    group, losses = members()
    mine = enter(group, 0, "a")
    known = {
        "another rank": group.contact(1, "a", None),
        "another actor": group.contact(1, "b", None),
        "old": Members(actors=2, on_lost=Losses()).contact(0, "a", None),
    }
    secret = known.get(given or "", given)
    with pytest.raises(StrangerError):
        group.admit(0, "a", secret)
    with pytest.raises(TakenError):
        group.contact(0, "a", secret)
    assert group.alive() == [mine]
    assert losses == []


def test_a_secret_that_somebody_else_was_faster_with_is_refused():
    group, _ = members()
    slow, fast = group.contact(0, "a", None), group.contact(0, "b", None)
    member = group.admit(0, "b", fast)
    with pytest.raises(TakenError):
        group.admit(0, "a", slow)
    assert group.alive() == [member]


def test_more_calls_than_an_actor_needs_are_refused():
    group, _ = members()
    member = enter(group, 0, "a")
    for _ in range(CALLS_PER_MEMBER):
        group.attach(member, ACall(), is_upload=True)
    with pytest.raises(CrowdedError):
        group.attach(member, ACall(), is_upload=True)


def test_a_secret_ends_with_its_incarnation_when_that_was_given_up():
    group, _ = members()
    secret = group.contact(0, "a", None)
    group.lose(group.admit(0, "a", secret), "why")
    with pytest.raises(GivenUpError, match="why"):
        group.admit(0, "a", secret)
    assert group.admit(0, "a", group.contact(0, "a", secret)).lost_because is None


def test_a_client_that_opens_one_call_after_the_other_goes_on_with_its_secret():
    group, losses = members()
    secret, call = group.contact(0, "a", None), ACall()
    member = group.admit(0, "a", secret)
    group.attach(member, call, is_upload=True)
    group.detach(member, call)
    assert losses == [(0, "a", "connection closed")]
    assert group.admit(0, "a", secret) is not member


def test_lost_members_that_do_not_leave_are_cut_off_when_they_are_too_many():
    group, _ = members(1)
    calls = [ACall() for _ in range(3)]
    for call in calls:
        member = enter(group, 0, "a")
        group.attach(member, call, is_upload=False)
        group.lose(member, "why")
    assert [call.cancelled > 0 for call in calls] == [True, True, False]


@pytest.mark.parametrize("rank", [2, -1, 10**6])
def test_a_rank_outside_the_run_is_refused(rank: int):
    group, _ = members(2)
    with pytest.raises(FullError, match="takes 2 actors"):
        enter(group, rank, "a")


def test_a_rank_of_a_living_actor_is_refused_without_naming_it():
    group, losses = members()
    enter(group, 1, "the-living-one")
    with pytest.raises(TakenError, match="another living actor") as caught:
        enter(group, 1, "b")
    assert "the-living-one" not in str(caught.value)
    assert losses == []


def test_a_member_whose_last_call_ended_is_lost_and_its_rank_is_free():
    group, losses = members()
    member = enter(group, 0, "a")
    calls = [ACall(), ACall()]
    for call in calls:
        group.attach(member, call, is_upload=True)
    group.detach(member, calls[0])
    assert losses == []
    group.detach(member, calls[1])
    assert losses == [(0, "a", "connection closed")]
    assert enter(group, 0, "b") is not member


def test_a_goodbye_is_the_reason_of_the_loss():
    group, losses = members()
    member = enter(group, 0, "a")
    call = ACall()
    group.attach(member, call, is_upload=True)
    member.said_goodbye = True
    group.detach(member, call)
    assert losses == [(0, "a", "goodbye")]


def test_a_loss_is_told_once_and_ends_the_calls():
    group, losses = members()
    member = enter(group, 0, "a")
    call = ACall()
    group.attach(member, call, is_upload=True)
    group.lose(member, "why")
    group.lose(member, "again")
    group.detach(member, call)
    assert losses == [(0, "a", "why")]
    assert call.cancelled == 1


def test_a_lost_member_cannot_open_another_call():
    group, _ = members()
    member = enter(group, 0, "a")
    group.lose(member, "why")
    with pytest.raises(GivenUpError, match="given up: why"):
        group.attach(member, ACall(), is_upload=True)


def test_an_actor_that_comes_back_with_its_secret_is_a_new_incarnation():
    group, losses = members()
    secret = group.contact(0, "a", None)
    old = group.admit(0, "a", secret)
    call = ACall()
    group.attach(old, call, is_upload=True)
    new = group.admit(0, "a", group.contact(0, "a", secret))
    assert new is not old
    assert call.cancelled == 1
    assert losses == [(0, "a", "came back in a new incarnation")]
    group.detach(old, call)
    assert group.alive() == [new]


def test_only_the_silent_member_is_given_up():
    group, losses = members()
    silent, loud = enter(group, 0, "a"), enter(group, 1, "b")
    silent.last_seen = time.monotonic() - 5.0
    group.sweep(2.0)
    assert [loss[:2] for loss in losses] == [(0, "a")]
    assert "silent for 5" in losses[0][2]
    assert group.alive() == [loud]


def test_a_download_of_a_lost_member_may_say_why_before_it_is_cut_off():
    group, _ = members()
    member = enter(group, 0, "a")
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
    member = enter(group, 0, "a")
    download = ACall()
    group.attach(member, download, is_upload=False)
    group.lose(member, "why")
    group.detach(member, download)
    member.lost_at -= 10.0
    group.sweep(60.0)
    assert download.cancelled == 0


def test_a_learner_that_stood_still_itself_judges_nobody_for_another_timeout():
    group, losses = members()
    member = enter(group, 0, "a")
    group._last_sweep -= 10.0
    member.last_seen -= 10.0
    group.sweep(2.0)
    assert losses == []
    member.last_seen -= 10.0
    group.sweep(2.0)
    assert [loss[:2] for loss in losses] == [(0, "a")]
