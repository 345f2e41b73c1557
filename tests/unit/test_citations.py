"""Every citation leads somewhere: sections, decisions and invariants of `docs/algorithm.md`, and files.

Forms: `algorithm.md` 7.2, 7.4; `algorithm.md` D10, I14; section 10.3; (12.1); I28. A section without a
file is one of `algorithm.md`. Gate requirements in `docs/auditor.md` have ids of the same shape (D1, I1),
so ids without a file are not followed where those are meant.
"""

from __future__ import annotations

import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPECIFICATION = (ROOT / "docs" / "algorithm.md").read_text(encoding="utf-8")

HISTORY = ("CHANGELOG.md", "docs/mutations.md")
"""Say what was, citations included."""

WRITTEN_BY_RUNS = {"report.md", "NAME.md"}

GATE_REQUIREMENTS = (
    "docs/auditor.md",
    "docs/evidence.md",
    "pirl/audit/",
    "tests/audit/",
)
"""Where D1 or I1 is a requirement of the gate."""

_REF = r"(?:\d{1,2}(?:\.\d{1,2})?(?![\d%])|[DI]\d{1,2}\b)"
_REFS = rf"{_REF}(?:(?:, | and | or |-){_REF})*"
_AFTER_NAME = re.compile(rf"algorithm\.md`?\)? ({_REFS})")
_AFTER_SECTION = re.compile(rf"\b[Ss]ections? ({_REFS})")
_IN_BRACKETS = re.compile(rf"\(([1-9]\d?\.\d{{1,2}}(?:(?:, ){_REF})*)\)")
_ALONE_IN_BRACKETS = re.compile(rf"\(({_REFS})\)")
# Not in quotes: `"I64"` is a type of safetensors.
_BARE_ID = re.compile(r"(?<!\")\b([DI]\d{1,2})\b")
_MARKDOWN = re.compile(r"[\w./-]*\w\.md\b")


def targets() -> set[str]:
    """Everything that may be cited: headings, and ids that begin a table row."""
    headings = re.findall(r"^#{2,3} (\d+(?:\.\d+)?)\.? ", SPECIFICATION, re.MULTILINE)
    rows = re.findall(r"^\| ([DI]\d+) \|", SPECIFICATION, re.MULTILINE)
    found = [*headings, *rows]
    assert len(found) == len(set(found)), "an id is defined twice"
    return set(found)


@cache
def tracked() -> tuple[str, ...]:
    out = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return tuple(name for name in out.splitlines() if (ROOT / name).is_file())


@cache
def prose(name: str) -> tuple[str, ...]:
    """What people read in a file: the whole text, or comments and text literals of Python."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return tuple(_of_python(text)) if name.endswith(".py") else (_joined(text),)


def _of_python(text: str) -> Iterator[str]:
    comment: list[str] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            comment.append(token.string.lstrip("#: "))
        elif token.type in (tokenize.STRING, tokenize.FSTRING_MIDDLE):
            yield _joined(token.string)
        elif token.type not in (tokenize.NL, tokenize.NEWLINE):
            yield " ".join(comment)
            comment = []


def _joined(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def sources(*endings: str) -> list[str]:
    own = Path(__file__).relative_to(ROOT).as_posix()
    return [n for n in tracked() if n.endswith(endings) and n not in HISTORY and n != own]


def citations() -> Iterator[tuple[str, str]]:
    """(file, id) of every citation."""
    for name in sources(".py", ".md", ".json"):
        speaks_of_it = name.startswith(("pirl/", "docs/algorithm.md", "docs/paper_map.md"))
        patterns = [_AFTER_NAME]
        if speaks_of_it and not name.startswith(GATE_REQUIREMENTS):
            patterns += [_AFTER_SECTION, _IN_BRACKETS]
        if name == "docs/paper_map.md":
            patterns += [_ALONE_IN_BRACKETS]
        if name.endswith((".py", ".md")) and not name.startswith(GATE_REQUIREMENTS):
            patterns += [_BARE_ID]
        for text in prose(name):
            for pattern in patterns:
                for refs in pattern.findall(text):
                    yield from ((name, ref) for ref in _expanded(refs))


def _expanded(refs: str) -> list[str]:
    return re.findall(_REF, refs)


def test_every_section_decision_and_invariant_cited_exists():
    known = targets()
    found = list(citations())
    assert len(found) > 250
    assert sorted({(name, ref) for name, ref in found if ref not in known}) == []


def test_the_specification_has_its_decisions_and_invariants():
    known = targets()
    assert {f"D{n}" for n in range(1, 26)} | {f"I{n}" for n in range(1, 47)} <= known


def test_every_markdown_file_cited_exists():
    missing = []
    for name in sources(".py", ".md", ".json", ".toml", ".yaml"):
        places = (ROOT, ROOT / "docs", (ROOT / name).parent)
        for text in prose(name):
            missing += [
                (name, cited)
                for cited in _MARKDOWN.findall(text)
                if Path(cited).name not in WRITTEN_BY_RUNS
                and not any((place / cited).is_file() for place in places)
            ]
    assert missing == []


@pytest.mark.parametrize(
    ("text", "refs"),
    [
        ("Source: `algorithm.md` 6, 7.2, 7.4.", ["6", "7.2", "7.4"]),
        ("the loop of `algorithm.md` 4-6 and its", ["4", "6"]),
        ("(`algorithm.md` D10, I14)", ["D10", "I14"]),
        ("`algorithm.md` 10 and 12; exact", ["10", "12"]),
        ("[algorithm.md](algorithm.md) 9.4", ["9.4"]),
        ("the loop in algorithm.md has no number", []),
    ],
)
def test_the_forms_of_citations_are_seen(text, refs):
    assert [ref for found in _AFTER_NAME.findall(text) for ref in _expanded(found)] == refs
