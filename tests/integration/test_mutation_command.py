"""The command on a repository of one module: survivors, table, lists, and what is kept between runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

HERE = Path(__file__).parents[1] / "mutation"
MODULE = '''
"""A module; its docstring says 1 < 2."""
from functools import wraps

LIMIT = 3

def doubled(call):
    @wraps(call)
    def outer(a: int = 1):
        return 2 * call(a)
    return outer

@doubled
def clipped(a):
    if a > LIMIT:
        return LIMIT
    return a

def unseen(a):
    return a + 1
'''
TESTS = """
import pytest

pytestmark = pytest.mark.integration
from pirl.algorithm.a import clipped

@pytest.fixture(scope="module")
def answer():
    return clipped(2)

def test_first(answer):
    assert answer > 0

def test_small_numbers_stay(answer):
    assert answer == 4

def test_large_numbers_are_clipped():
    assert clipped(9) == 6
"""
EQUIVALENT = """
[[equivalent]]
file = "pirl/algorithm/a.py"
function = "clipped"
statement = "if a > LIMIT:"
change = "a > LIMIT -> a >= LIMIT"
reason = "both branches give the limit"
"""
NAMED = """
[[mutation]]
name = "no limit"
file = "pirl/algorithm/a.py"
old = "if a > LIMIT"
new = "if a > 100 * LIMIT"
tests = ["tests/unit/algorithm/test_a.py"]

[[mutation]]
name = "no difference"
file = "pirl/algorithm/a.py"
old = "if a > LIMIT"
new = "if not a <= LIMIT"
tests = ["tests/unit/algorithm/test_a.py::test_small_numbers_stay"]

[[mutation]]
name = "another limit"
file = "pirl/algorithm/a.py"
old = "LIMIT = 3"
new = "LIMIT = 4"
tests = ["tests/unit/algorithm/test_a.py::test_large_numbers_are_clipped"]
"""


@pytest.fixture
def root(tmp_path):
    shutil.copytree(HERE, tmp_path / "tests" / "mutation")
    (tmp_path / "tests" / "mutation" / "equivalents.toml").write_text(EQUIVALENT)
    for name, text in {
        "pirl/__init__.py": "",
        "pirl/algorithm/__init__.py": "",
        "pirl/algorithm/a.py": MODULE,
        "tests/unit/algorithm/test_a.py": TESTS,
        "named.toml": NAMED,
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def run(root, *arguments):
    command = [sys.executable, "tests/mutation", *arguments]
    # Plugins of the environment cost more than all that is tested here.
    environ = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(
        command, cwd=root, env=environ, capture_output=True, text=True, timeout=300, check=False
    )


def test_survivors_are_printed_and_make_the_command_fail_and_known_outcomes_are_kept(root):
    done = run(root, "--json", "found.json")
    assert done.returncode == 1, done.stderr
    found = json.loads((root / "found.json").read_text())
    survivors = {(s["function"], s["change"], s["status"]) for s in found["survivors"]}
    # Nobody relies on the default, and nobody calls `unseen`.
    assert survivors == {
        ("doubled.outer", "1 -> 2", "survived"),
        ("unseen", "a + 1 -> a - 1", "uncovered"),
        ("unseen", "1 -> 2", "uncovered"),
    }
    assert "a + 1 -> a - 1" in done.stdout
    (row,) = found["rows"]
    assert row["tried"] == row["mutants"] == row["killed"] + row["survived"] + row["equivalent"]
    assert (row["survived"], row["equivalent"]) == (3, 1)
    assert f"| {row['killed']} | 1 | 3 |" in done.stdout

    (root / "tests/unit/algorithm/test_a.py").write_text(
        TESTS
        + "\nfrom pirl.algorithm.a import unseen\n\ndef test_unseen():\n    assert unseen(1) == 2\n"
    )
    (root / "docs").mkdir()
    again = run(root, "--write", "--cap", "100")
    assert "known from earlier runs" in again.stderr
    assert "unseen" not in again.stdout
    page = (root / "docs" / "mutations.md").read_text()
    assert "python tests/mutation --cap 100 --write" in page
    assert f"| {row['killed'] + 2} | 1 | 1 |" in page


def test_a_stale_entry_is_an_error(root):
    (root / "pirl/algorithm/a.py").write_text(MODULE.replace("a > LIMIT", "a > 1 + LIMIT"))
    done = run(root)
    assert done.returncode == 2
    assert "no such mutant any more" in done.stderr


def test_tests_that_fail_unmutated_are_an_error(root):
    (root / "tests/unit/algorithm/test_a.py").write_text(TESTS.replace("== 6", "== 7"))
    done = run(root)
    assert done.returncode == 2
    assert "tests fail before anything is mutated" in done.stderr
    assert "test_large_numbers_are_clipped" in done.stderr


def test_named_mutations_must_all_be_killed(root):
    done = run(root, "--named", "named.toml")
    assert done.returncode == 1, done.stderr
    for line in ("killed    no limit", "killed    another limit", "survived  no difference"):
        assert line in done.stdout
