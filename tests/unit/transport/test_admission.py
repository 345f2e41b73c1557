"""Who is let in: the first check that fails decides, and its answer says no more than it must."""

from __future__ import annotations

import time
from dataclasses import replace

import grpc
import pytest
from transport_builders import an_identity

from pirl.config.recipe import RuntimeConfig
from pirl.transport import identity
from pirl.transport.admission import Caller, Handshake, RefusedError, admit, contact, identify
from pirl.transport.members import Members

TOKEN = "open sesame"


def a_caller(*, actor_id="actor-0", rank=0, token=TOKEN, secret=None, **claims):
    """Metadata of a caller; None leaves an entry out."""
    entries = identity.caller_metadata(
        actor_id=actor_id or "", rank=rank or 0, token=token, secret=secret
    )
    left_out = {
        identity.ACTOR_ID_KEY: actor_id is None,
        identity.RANK_KEY: rank is None,
    }
    entries = [entry for entry in entries if not left_out.get(entry[0], False)]
    return [*entries, *an_identity(**claims).to_metadata()]


def two_members() -> Members:
    return Members(actors=2, on_lost=lambda *_: None)


def identified(metadata, *, call="Ready", **runtime) -> Caller:
    return identify(
        metadata,
        call=call,
        ours=an_identity(),
        runtime=RuntimeConfig(**({"token": TOKEN} | runtime)),
    )


def ask(metadata, *, members=None, **options) -> tuple[str, Handshake]:
    """The secret and the answer to a first contact, or the refusal."""
    return contact(identified(metadata, **options), members or two_members())


def enter(members: Members, *, secret: str | None, **caller):
    """The member behind a later call, or the refusal."""
    return admit(identified(a_caller(secret=secret, **caller), call="StreamParameters"), members)


def refused(metadata, **options):
    with pytest.raises(RefusedError) as caught:
        ask(metadata, **options)
    return caught.value


def test_a_caller_with_token_identity_and_rank_is_given_a_secret_and_let_in():
    before, members = time.time(), two_members()
    secret, answer = ask(a_caller(rank=1), members=members)
    assert (answer.accepted, answer.reason, answer.detail) == (True, "accepted", "")
    assert (answer.call, answer.rank, answer.actor_id) == ("Ready", 1, "actor-0")
    assert answer.mismatches == ()
    assert before <= answer.unix_s <= time.time()
    member = enter(members, secret=secret, rank=1)
    assert (member.rank, member.actor_id) == (1, "actor-0")
    assert members.alive() == [member]


def test_a_caller_whose_identity_was_damaged_on_the_way_may_try_again_and_learns_nothing():
    whole = identity.sealed(a_caller())
    assert ask(whole)[1].accepted
    damaged = [(key, value.replace("run-1", "run-3")) for key, value in whole]
    error = refused(damaged)
    assert error.code is grpc.StatusCode.DATA_LOSS
    assert (error.answer.reason, error.answer.mismatches, error.is_final) == ("damaged", (), False)


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
    assert ask(a_caller(actor_id=actor_id))[1].actor_id == actor_id


@pytest.mark.parametrize("actor_id", [None, "", "a" * 129, "a\nb", "a\x1b[2J"])
def test_other_names_are_a_mismatch(actor_id):
    metadata = [e for e in a_caller() if e[0] != identity.ACTOR_ID_KEY]
    if actor_id is not None:
        given = identity.caller_metadata(actor_id=actor_id, rank=0, token=TOKEN)
        metadata += [e for e in given if e[0] == identity.ACTOR_ID_KEY]
    error = refused(metadata)
    assert error.code is grpc.StatusCode.FAILED_PRECONDITION
    shown = None if actor_id is None else actor_id[:128]
    assert [(m.field, m.theirs) for m in error.answer.mismatches] == [("actor_id", shown)]
    assert error.answer.actor_id == shown


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
    members = two_members()
    first = enter(members, secret=ask(a_caller(), members=members)[0])
    error = refused(a_caller(actor_id="actor-1"), members=members)
    assert error.code is grpc.StatusCode.ALREADY_EXISTS
    assert (error.answer.reason, error.answer.actor_id) == ("taken", "actor-1")
    assert members.alive() == [first]


class ACall:
    def cancel(self):
        return True


def refused_later(members: Members, **caller) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        enter(members, **caller)
    return caught.value


@pytest.mark.parametrize("secret", [None, "", "made up"])
def test_without_the_secret_a_call_belongs_to_nobody(secret):
    members = two_members()
    error = refused_later(members, secret=secret)
    assert error.code is grpc.StatusCode.UNAUTHENTICATED
    # The actor that the call names has not said this.
    assert (error.answer.reason, error.answer.actor_id) == ("secret", None)
    assert members.alive() == []


def test_a_secret_is_worth_nothing_to_another_name():
    members = two_members()
    secret, _ = ask(a_caller(), members=members)
    assert refused_later(members, secret=secret, actor_id="actor-1").answer.reason == "secret"


def test_an_incarnation_that_was_given_up_has_to_make_contact_again():
    members = two_members()
    secret, _ = ask(a_caller(), members=members)
    members.lose(enter(members, secret=secret), "silent")
    error = refused_later(members, secret=secret)
    assert error.code is grpc.StatusCode.ABORTED
    assert (error.answer.reason, error.answer.actor_id) == ("given_up", "actor-0")
    assert "silent" in error.details
    assert not error.is_final


@pytest.mark.parametrize("reason", ["token", "mismatch", "capacity", "taken"])
def test_what_another_try_would_not_change_is_final(reason):
    answer = Handshake(
        unix_s=0.0, call="Ready", rank=0, actor_id=None, accepted=False, reason=reason
    )
    assert RefusedError(answer, grpc.StatusCode.ABORTED).is_final


@pytest.mark.parametrize(("proven", "lost"), [(True, 1), (False, 0)])
def test_only_an_actor_with_its_own_secret_succeeds_itself(proven, lost):
    losses = []
    members = Members(actors=1, on_lost=lambda *loss: losses.append(loss))
    secret, _ = ask(a_caller(), members=members)
    member = enter(members, secret=secret)
    members.attach(member, ACall(), is_upload=False)
    if proven:
        assert ask(a_caller(secret=secret), members=members)[0] != secret
    else:
        assert refused(a_caller(), members=members).answer.reason == "taken"
    assert len(losses) == lost


def test_a_refusal_says_its_reason_where_there_is_nothing_more_to_say():
    error = refused(a_caller(token="wrong"))
    shown = RefusedError(replace(error.answer, detail="why"), grpc.StatusCode.ABORTED)
    assert (error.details, shown.details) == ("token", "why")
    assert str(shown).startswith("refused Ready (rank 0): token")
