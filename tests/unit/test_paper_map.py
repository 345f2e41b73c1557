"""`docs/paper_map.md` leads from every equation to a function and from every invariant to a test.

The defaults that `docs/algorithm.md` states are the code's.
"""

import re
from dataclasses import fields
from pathlib import Path

from pirl.config.recipe import FlowNoiseConfig, FlowSDEConfig, PiRLConfig

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "paper_map.md").read_text(encoding="utf-8")
SPECIFICATION = (ROOT / "docs" / "algorithm.md").read_text(encoding="utf-8")
_SOURCES = {p.stem: p.read_text(encoding="utf-8") for p in (ROOT / "pirl/algorithm").glob("*.py")}


def test_every_invariant_has_a_row():
    rows = re.findall(r"^\| (I\d+) \|", TEXT, re.MULTILINE)
    assert rows == [f"I{number}" for number in range(1, 47)]


def test_every_row_states_its_tolerance_and_every_difference_its_reason():
    specified = dict(re.findall(r"^\| (I\d+) \| [^|]+ \| ([^|]+) \|$", SPECIFICATION, re.MULTILINE))
    rows = re.findall(r"^\| (I\d+) \| ([^|]+) \| `", TEXT, re.MULTILINE)
    assert len(rows) == len(specified) == 46
    reasons = re.findall(r"\*\*(I[\d, I]+)\*\*", TEXT)
    explained = {name for names in reasons for name in names.split(", ")}
    other = {name for name, asserted in rows if asserted not in (specified[name], "exact")}
    assert sorted(other - explained) == []


def test_every_named_test_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)
    assert len(named) >= 46
    missing = [
        f"{file}::{name}" for file, name in named if f"def {name}(" not in (ROOT / file).read_text()
    ]
    assert missing == []


def test_every_named_function_and_test_file_exists():
    equations = TEXT.split("## Invariants")[0]
    rows = [line.strip("| ").split(" | ") for line in equations.splitlines() if "` |" in line]
    assert len(rows) > 40
    for row in rows:
        for name in re.findall(r"`([\w.]+)`", row[1]):
            assert _resolves(name), name
        for file in re.findall(r"`(test_\w+)`", row[2]):
            assert list((ROOT / "tests").rglob(f"{file}.py")), file


def _resolves(name: str) -> bool:
    """`module`, `module.name` or a bare `name` of `pirl.algorithm` (or `contract.module`)."""
    module, _, attribute = name.rpartition(".")
    if (ROOT / "pirl" / module / f"{attribute}.py").is_file() or attribute in _SOURCES:
        return True
    file = ROOT / "pirl" / module.replace(".", "/") / f"{attribute}.py"
    if file.is_file():
        return True
    places = [_SOURCES[module]] if module else list(_SOURCES.values())
    return any(re.search(rf"^ *(?:def|class) {attribute}\b", text, re.MULTILINE) for text in places)


def test_the_defaults_of_the_specification_are_those_of_the_code():
    recipe = PiRLConfig(flow_sde=FlowSDEConfig(), flow_noise=FlowNoiseConfig())
    sections = ("flow_sde", "flow_noise", "last_step_std")
    knobs = {f.name: getattr(recipe, f.name) for f in fields(recipe) if f.name not in sections}
    for section in sections:
        holder = getattr(recipe, section)
        knobs |= {f"{section}.{f.name}": getattr(holder, f.name) for f in fields(holder)}
    table = SPECIFICATION.split("### 15.4")[1].split("\n## ")[0]
    stated = dict(re.findall(r"`([\w.]+)` = ([^;|]+?)(?:;| \|)", table))
    assert stated == {name: _shown(value) for name, value in knobs.items()}


def _shown(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, tuple):
        return f"({', '.join(map(_shown, value))})"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
