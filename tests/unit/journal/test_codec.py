"""Records as JSON and back: nothing is converted, invented or overlooked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pirl.audit.records.files import FILES
from pirl.audit.records.metadata import Environment, Run, Source
from pirl.errors import EvidenceError
from pirl.journal.codec import dump_json, from_json, hints, parse_object, to_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    text: str
    number: float
    is_so: bool
    maybe: int | None
    items: tuple[Inner, ...]
    table: Mapping[str, float | str]


GOOD = {
    "text": "a", "number": 1.5, "is_so": True, "maybe": None, "items": [{"n": 1}], "table": {"k": 2.0},
}  # fmt: skip


def read(**changes):
    return from_json(Outer, GOOD | changes, where="x.json")


def test_what_was_written_is_read_again_in_the_same_bytes():
    record = read()
    assert record.items == (Inner(n=1),)
    text = dump_json(to_json(record))
    again = from_json(Outer, parse_object(text, where="x"), where="x")
    assert (again, dump_json(to_json(again))) == (record, text)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"text": 1}, "text"),
        ({"text": None}, "text"),
        ({"number": 1}, "number"),
        ({"number": True}, "number"),
        ({"number": math.nan}, "number"),
        ({"number": math.inf}, "number"),
        ({"is_so": 1}, "is_so"),
        ({"maybe": True}, "maybe"),
        ({"maybe": 1.0}, "maybe"),
        ({"items": {"n": 1}}, "items"),
        ({"items": [{"n": 1}, {"n": "1"}]}, r"items\[1\]\.n"),
        ({"items": [{"n": 1, "m": 2}]}, "unknown field 'm'"),
        ({"items": [{}]}, "field 'n' is missing"),
        ({"table": {"k": None}}, r"table\.k"),
        ({"table": []}, "table"),
        ({"waiver": "granted"}, "unknown field 'waiver'"),
    ],
)
def test_anything_else_is_refused_with_its_place(change, place):
    with pytest.raises(EvidenceError, match=rf"x\.json.*{place}"):
        read(**change)


def test_a_missing_field_has_no_default():
    without = {k: v for k, v in GOOD.items() if k != "maybe"}
    with pytest.raises(EvidenceError, match="'maybe' is missing"):
        from_json(Outer, without, where="x.json")


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', "[1]", '{"a": NaN}', '{"a": 1e999}', "{"])
def test_a_text_that_is_no_plain_object_is_refused(text):
    with pytest.raises(EvidenceError, match=r"x\.json"):
        parse_object(text, where="x.json")


def test_a_writer_cannot_put_another_type_into_a_record():
    wrong = Outer(text="a", number=math.inf, is_so=True, maybe=1, items=(), table={})
    with pytest.raises(EvidenceError, match="number"):
        to_json(wrong)
    with pytest.raises(EvidenceError, match="items"):
        to_json(Outer(text="a", number=1.0, is_so=True, maybe=1, items=[Inner(n=1)], table={}))


@given(st.floats(allow_nan=False, allow_infinity=False), st.text())
def test_every_number_and_text_survives(number, text):
    record = Outer(text=text, number=number, is_so=False, maybe=7, items=(), table={text: number})
    there = parse_object(dump_json(to_json(record)), where="x")
    assert from_json(Outer, there, where="x") == record


@pytest.mark.parametrize(
    "kind", [f.kind for f in FILES if f.kind is not str] + [Run, Source, Environment]
)
def test_every_field_of_every_record_says_what_it_means(kind):
    assert kind.__doc__
    for name in hints(kind):
        assert kind.__dataclass_fields__[name].metadata["meaning"]
