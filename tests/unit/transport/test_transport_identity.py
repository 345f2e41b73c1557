"""Identity: both forms carry every field exactly, and no difference passes unnamed."""

from __future__ import annotations

import logging
from dataclasses import fields, replace

import pytest
import torch
from transport_builders import an_identity

from pirl import hooks
from pirl.errors import ConfigError, FieldMismatch
from pirl.transport import identity
from pirl.transport.identity import Identity

NAMES = [f.name for f in fields(Identity)]
OTHER = {name: 99 if isinstance(getattr(an_identity(), name), int) else "other" for name in NAMES}


def test_tensor_form_carries_every_field_exactly():
    ours = an_identity(config_path="configs/pfad mit Größe.json")
    tensors = ours.to_tensors()
    assert all(key.startswith("pirl_identity.") for key in tensors)
    assert all(t.dtype == torch.uint8 for t in tensors.values())
    assert identity.from_tensors(tensors) == ours.claims()


def test_metadata_form_carries_every_field_exactly_and_is_plain_ascii():
    ours = an_identity(config_path="configs/pfad mit Größe & 100%.json")
    metadata = ours.to_metadata()
    assert all(key == key.lower() and value.isascii() for key, value in metadata)
    assert identity.from_metadata(metadata) == ours.claims()


def test_entries_that_changed_on_the_way_are_told_from_other_ones():
    whole = identity.sealed(an_identity().to_metadata())
    assert not identity.is_damaged([("user-agent", "grpc"), *reversed(whole)])
    assert not identity.is_damaged(an_identity(run_id="other").to_metadata()), "not sealed at all"
    for place, (key, value) in enumerate(whole):
        for damaged in ((key, value + "x"), (key, value[1:]), (key[:-1], value)):
            is_lost = damaged[0] == identity.CHECKSUM_KEY[:-1]
            entries = [*whole[:place], damaged, *whole[place + 1 :]]
            assert identity.is_damaged(entries) is (damaged != (key, value) and not is_lost)


@pytest.mark.parametrize("name", NAMES)
def test_each_differing_field_is_named_with_both_values(name: str):
    theirs = replace(an_identity(), **{name: OTHER[name]}).claims()
    expected = FieldMismatch(field=name, ours=getattr(an_identity(), name), theirs=OTHER[name])
    assert identity.compare(an_identity(), theirs, config_identity="path+hash") == [expected]


@pytest.mark.parametrize("name", NAMES)
def test_each_missing_field_is_a_mismatch(name: str):
    theirs = {k: v for k, v in an_identity().claims().items() if k != name}
    found = identity.compare(an_identity(), theirs, config_identity="path+hash")
    assert [(m.field, m.theirs) for m in found] == [(name, None)]


def test_all_differences_are_reported_together():
    found = identity.compare(an_identity(), {}, config_identity="path+hash")
    assert [m.field for m in found] == NAMES


def test_equal_identities_agree():
    assert (
        identity.compare(an_identity(), an_identity().claims(), config_identity="path+hash") == []
    )


def test_first_contact_without_a_run_id_agrees_with_any_run():
    ours, theirs = an_identity(), an_identity(run_id="")
    assert identity.compare(ours, theirs.claims(), config_identity="path+hash") == []
    assert identity.compare(theirs, ours.claims(), config_identity="path+hash") == []
    assert identity.adopt_run_id(theirs, ours.claims()) == ours


def test_an_adopted_run_id_is_kept():
    assert identity.adopt_run_id(an_identity(), {"run_id": "other"}) == an_identity()


def test_hash_mode_leaves_out_the_path_and_nothing_else():
    moved = an_identity(config_path="elsewhere.json", config_hash="ff" * 32)
    found = identity.compare(an_identity(), moved.claims(), config_identity="hash")
    assert [m.field for m in found] == ["config_hash"]


def test_a_number_sent_as_text_is_a_mismatch():
    theirs = {**an_identity().claims(), "denoising_steps": "3"}
    found = identity.compare(an_identity(), theirs, config_identity="path+hash")
    assert [m.field for m in found] == ["denoising_steps"]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor([0xFF, 0xFE], dtype=torch.uint8),
        torch.zeros(identity.MAX_VALUE_BYTES + 1, dtype=torch.uint8),
        torch.zeros(3, dtype=torch.int64),
        torch.zeros(1, 3, dtype=torch.uint8),
        "text",
    ],
    ids=["not utf-8", "too long", "wrong dtype", "wrong shape", "not a tensor"],
)
def test_an_unreadable_tensor_field_counts_as_missing(tensor: object):
    tensors = {**an_identity().to_tensors(), "pirl_identity.variant": tensor}
    claims = identity.from_tensors(tensors)
    assert "variant" not in claims
    assert len(claims) == len(NAMES) - 1


@pytest.mark.parametrize("value", ["%ff%fe", "a" * 2000, b"\xff\xfe"])
def test_an_unreadable_metadata_field_counts_as_missing(value: str | bytes):
    metadata = [(k, v) for k, v in an_identity().to_metadata() if k != "pirl-variant"]
    assert "variant" not in identity.from_metadata([*metadata, ("pirl-variant", value)])


def test_a_number_field_that_is_no_number_counts_as_missing():
    assert "denoising_steps" not in identity.from_metadata([("pirl-denoising-steps", "three")])


@pytest.mark.parametrize(
    ("expected", "given", "agree"),
    [
        ("secret", "secret", True),
        ("secret", "Secret", False),
        ("secret", None, False),
        ("secret", "", False),
        (None, None, True),
        (None, "secret", False),
        ("ключ", "ключ", True),
    ],
)
def test_tokens_agree_only_when_equal_or_both_absent(
    expected: str | None, given: str | None, agree: bool
):
    assert identity.tokens_agree(expected, given) is agree


def test_caller_metadata_round_trips_awkward_text():
    metadata = identity.caller_metadata(actor_id="aktör 1", rank=3, token="sé cret%")
    assert all(value.isascii() for _, value in metadata)
    assert identity.text_of(metadata, identity.ACTOR_ID_KEY) == "aktör 1"
    assert identity.text_of(metadata, identity.TOKEN_KEY) == "sé cret%"
    assert identity.text_of(metadata, identity.RANK_KEY) == "3"


def test_no_token_means_no_token_key():
    keys = [key for key, _ in identity.caller_metadata(actor_id="a", rank=0, token=None)]
    assert identity.TOKEN_KEY not in keys


def test_the_check_compares(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(hooks.VARIABLE, raising=False)
    theirs = an_identity(variant="flow-noise").claims()
    found = identity.check(an_identity(), theirs, config_identity="path+hash")
    assert [m.field for m in found] == ["variant"]


def test_the_handshake_hook_lets_everything_pass_and_is_loud(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv(hooks.VARIABLE, "handshake")
    with caplog.at_level(logging.CRITICAL):
        assert identity.check(an_identity(), {}, config_identity="path+hash") == []
    assert "handshake check is DISABLED" in caplog.text
    assert hooks.hooks_active() == ("handshake",)


def test_other_hooks_do_not_touch_the_handshake(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(hooks.VARIABLE, "parity, manifest")
    assert identity.check(an_identity(), {}, config_identity="path+hash")
    assert hooks.hooks_active() == ("manifest", "parity")


def test_a_misspelt_hook_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(hooks.VARIABLE, "handshakes")
    with pytest.raises(ConfigError) as caught:
        hooks.hooks_active()
    assert caught.value.errors[0].value == "handshakes"


def test_asking_for_an_unknown_check_is_a_programming_error():
    with pytest.raises(ValueError, match="not one of"):
        hooks.disabled("everything")
