"""`docs/paper_map.md` leads from every invariant to a test that exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "paper_map.md").read_text(encoding="utf-8")


def test_every_invariant_has_a_row():
    rows = re.findall(r"^\| (I\d+) \|", TEXT, re.MULTILINE)
    assert rows == [f"I{number}" for number in range(1, 47)]


def test_every_row_states_both_tolerances_and_every_difference_its_reason():
    rows = re.findall(r"^\| (I\d+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \| `", TEXT, re.MULTILINE)
    assert len(rows) == 46
    reasons = re.findall(r"\*\*(I[\d, I]+)\*\*", TEXT)
    explained = {name for names in reasons for name in names.split(", ")}
    other = {name for name, _, specified, asserted in rows if asserted not in (specified, "exact")}
    assert sorted(other - explained) == []


def test_every_named_test_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)
    assert len(named) >= 46
    missing = [
        f"{file}::{name}" for file, name in named if f"def {name}(" not in (ROOT / file).read_text()
    ]
    assert missing == []
