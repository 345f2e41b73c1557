"""Typed access to JSON objects: what is missing or of another type is refused, never read as a value."""

import pytest

from pirl.errors import EvidenceError
from pirl.journal import fields


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (fields.text, ""),
        (fields.text, 3),
        (fields.mapping, []),
        (fields.sequence, {}),
        (fields.sequence, "ab"),
        (fields.objects, [1]),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(read, value):
    with pytest.raises(EvidenceError, match="'n'"):
        read({"n": value}, "n")


@pytest.mark.parametrize(
    "read",
    [
        fields.text,
        fields.mapping,
        fields.sequence,
        fields.objects,
    ],
)
def test_a_missing_field_has_no_default(read):
    with pytest.raises(EvidenceError, match="'n' is missing"):
        read({"m": 1}, "n")
