"""Typed access to raw records: what is missing or of another type is refused, never read as a value."""

import pytest

from pirl.errors import EvidenceError
from pirl.evidence import raw


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (raw.integer, True),
        (raw.integer, 1.0),
        (raw.integer, "1"),
        (raw.integer, None),
        (raw.number, True),
        (raw.number, "0.5"),
        (raw.number, None),
        (raw.boolean, 1),
        (raw.boolean, "true"),
        (raw.boolean, None),
        (raw.text, ""),
        (raw.text, 3),
        (raw.mapping, []),
        (raw.sequence, {}),
        (raw.sequence, "ab"),
        (raw.objects, [1]),
        (raw.numbers, [True]),
        (raw.numbers, ["1"]),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(read, value):
    with pytest.raises(EvidenceError, match="'n'"):
        read({"n": value}, "n")


@pytest.mark.parametrize(
    "read",
    [
        raw.integer,
        raw.number,
        raw.boolean,
        raw.text,
        raw.mapping,
        raw.sequence,
        raw.objects,
        raw.numbers,
    ],
)
def test_a_missing_field_has_no_default(read):
    with pytest.raises(EvidenceError, match="'n' is missing"):
        read({"m": 1}, "n")
