"""Who is let in: the first check that fails decides, and its answer says no more than it must."""

from __future__ import annotations

import time
from dataclasses import replace

import grpc
import pytest
from transport_builders import an_identity

from pirl.config.recipe import RuntimeConfig
from pirl.transport import identity
from pirl.transport.admission import RefusedError, admit
from pirl.transport.members import Members

TOKEN = "open sesame"


def a_caller(*, actor_id="actor-0", rank=0, token=TOKEN, **claims):
    """Metadata of a caller; None leaves an entry out."""
    entries = identity.caller_metadata(actor_id=actor_id or "", rank=rank or 0, token=token)
    left_out = {
        identity.ACTOR_ID_KEY: actor_id is None,
        identity.RANK_KEY: rank is None,
    }
    entries = [entry for entry in entries if not left_out.get(entry[0], False)]
    return [*entries, *an_identity(**claims).to_metadata()]


def ask(metadata, *, members=None, call="Ready", **runtime):
    """The member and the answer, or the refusal."""
    return admit(
        metadata,
        call=call,
        ours=an_identity(),
        runtime=RuntimeConfig(**({"token": TOKEN} | runtime)),
        members=members or Members(actors=2, on_lost=lambda *_: None),
    )


def refused(metadata, **options):
    with pytest.raises(RefusedError) as caught:
        ask(metadata, **options)
    return caught.value


def test_a_caller_with_token_identity_and_rank_is_let_in():
    before = time.time()
    member, answer = ask(a_caller(rank=1))
    assert (member.rank, member.actor_id) == (1, "actor-0")
    assert (answer.accepted, answer.reason, answer.detail) == (True, "accepted", "")
    assert (answer.call, answer.rank, answer.actor_id) == ("Ready", 1, "actor-0")
    assert answer.mismatches == ()
    assert before <= answer.unix_s <= time.time()


@pytest.mark.parametrize("token", [None, "", "open sesam", "Open sesame"])
def test_without_the_token_a_caller_learns_nothing(token):
    error = refused(a_caller(token=token, variant="other", rank=7))
    assert error.code is grpc.StatusCode.UNAUTHENTICATED
    assert (error.answer.reason, error.answer.accepted) == ("token", False)
    assert error.answer.mismatches == ()
    assert error.details == "token"
    assert "variant" not in str(error)


def test_every_field_that_differs_is_named_at_once():
    error = refused(a_caller(variant="other", policy_type="pi0", actor_id=None, rank=None))
    assert error.code is grpc.StatusCode.FAILED_PRECONDITION
    assert error.answer.reason == "mismatch"
    fields = [m.field for m in error.answer.mismatches]
    assert fields == ["variant", "policy_type", "actor_id", "rank"]
    for field in fields:
        assert field in error.details
        assert field in str(error)


def test_how_configs_are_compared_is_the_runtimes_choice():
    moved = a_caller(config_path="elsewhere.json")
    assert ask(moved, config_identity="hash")[1].accepted
    error = refused(moved, config_identity="path+hash")
    assert [m.field for m in error.answer.mismatches] == ["config_path"]


@pytest.mark.parametrize("actor_id", ["a", "a" * 128])
def test_names_of_1_to_128_characters_are_names(actor_id):
    assert ask(a_caller(actor_id=actor_id))[0].actor_id == actor_id


@pytest.mark.parametrize("actor_id", [None, "", "a" * 129, "a\nb", "a\x1b[2J"])
def test_other_names_are_a_mismatch(actor_id):
    metadata = [e for e in a_caller() if e[0] != identity.ACTOR_ID_KEY]
    if actor_id is not None:
        given = identity.caller_metadata(actor_id=actor_id, rank=0, token=TOKEN)
        metadata += [e for e in given if e[0] == identity.ACTOR_ID_KEY]
    error = refused(metadata)
    assert error.code is grpc.StatusCode.FAILED_PRECONDITION
    assert [m.field for m in error.answer.mismatches] == ["actor_id"]


@pytest.mark.parametrize("rank", ["", "-1", "1.0", "x", "٣", "1" * 10])
def test_a_rank_is_a_whole_number_of_at_most_nine_digits(rank):
    metadata = [e for e in a_caller() if e[0] != identity.RANK_KEY]
    error = refused([*metadata, (identity.RANK_KEY, rank)])
    assert [m.field for m in error.answer.mismatches] == ["rank"]
    assert error.answer.rank is None


def test_a_rank_of_nine_digits_is_a_rank():
    metadata = [e for e in a_caller() if e[0] != identity.RANK_KEY]
    error = refused([*metadata, (identity.RANK_KEY, "1" * 9)])
    assert (error.answer.reason, error.answer.rank) == ("capacity", 111_111_111)


def test_a_rank_outside_the_run_is_refused_with_the_remedy():
    error = refused(a_caller(rank=2))
    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.answer.reason == "capacity"
    assert "runtime.actors" in error.details
    assert error.answer.detail == error.details


def test_a_rank_that_another_living_actor_has_is_refused():
    members = Members(actors=2, on_lost=lambda *_: None)
    first, _ = ask(a_caller(), members=members)
    error = refused(a_caller(actor_id="actor-1"), members=members)
    assert error.code is grpc.StatusCode.ALREADY_EXISTS
    assert error.answer.reason == "taken"
    assert ask(a_caller(), members=members)[0] is first


class ACall:
    def cancel(self):
        return True


@pytest.mark.parametrize(("call", "lost"), [("Ready", 1), ("StreamParameters", 0)])
def test_only_first_contact_is_a_new_incarnation(call, lost):
    losses = []
    members = Members(actors=1, on_lost=lambda *loss: losses.append(loss))
    member, _ = ask(a_caller(), members=members)
    members.attach(member, ACall(), is_upload=False)
    ask(a_caller(), members=members, call=call)
    assert len(losses) == lost


def test_a_refusal_says_its_reason_where_there_is_nothing_more_to_say():
    error = refused(a_caller(token="wrong"))
    shown = RefusedError(replace(error.answer, detail="why"), grpc.StatusCode.ABORTED)
    assert (error.details, shown.details) == ("token", "why")
    assert "why" in str(shown)
