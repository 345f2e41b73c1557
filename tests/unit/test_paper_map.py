"""`docs/paper_map.md` leads from every invariant to a test that exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "paper_map.md").read_text(encoding="utf-8")


def test_every_invariant_has_a_row():
    rows = re.findall(r"^\| (I\d+) \|", TEXT, re.MULTILINE)
    assert rows == [f"I{number}" for number in range(1, 47)]


def test_every_named_test_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)
    assert len(named) >= 46
    missing = [
        f"{file}::{name}" for file, name in named if f"def {name}(" not in (ROOT / file).read_text()
    ]
    assert missing == []
