"""Survivors are reported, equivalent mutants carry a reason and exist, outcomes hold while their basis does."""

from __future__ import annotations

import ast
import os
import signal
from dataclasses import replace

import ledger
import pytest
from forks import Job, KnownTest, Outcome, run_jobs
from ledger import (
    LedgerError,
    Outcomes,
    check_equivalents,
    page,
    read_equivalents,
    read_named,
    table,
    tally,
)
from mutants import make_mutants

SOURCE = "def f(a):\n    if a > 1:\n        return a - 1\n    return a\n"
KILLED, TIMEOUT = Outcome(status="killed", by="t::x", cpu_s=0.5), Outcome(status="timeout")
SURVIVED, UNCOVERED = Outcome(status="survived"), Outcome(status="uncovered")
LISTED = """
[[equivalent]]
file = "a.py"
function = "f"
statement = "return a - 1"
change = "1 -> 2"
reason = "nobody calls it"
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A repository of one module and one test file."""
    monkeypatch.setattr(ledger, "ROOT", tmp_path)
    (tmp_path / "a.py").write_text(SOURCE)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text("one")
    (tmp_path / "tests" / "test_b.py").write_text("other")
    return tmp_path


def mutants(source=SOURCE):
    return {m.change: m for m in make_mutants(ast.parse(source), "a.py")}


def write(root, text):
    path = root / "list.toml"
    path.write_text(text)
    return path


# A run


def test_a_surviving_mutant_is_reported_and_a_killed_one_is_counted():
    """Real children: each applies its mutant and asks one question of the mutated function."""
    tree = ast.parse(SOURCE)
    jobs = [Job(mutant=m, tree=tree, tests=[]) for m in make_mutants(tree, "a.py")]
    found = {}

    def attempt(job):
        if job.mutant.change == "a > 1 -> a >= 1":
            return "declined"
        names = {}
        exec(job.mutated(), names)
        return "survived" if names["f"](5) == 4 else "killed tests/test_a.py::test_f"

    run_jobs(jobs, attempt, workers=2, record=lambda job, one: found.update({job.mutant.key: one}))
    by_change = {key[2:]: outcome and outcome.status for key, outcome in found.items()}
    assert by_change == {
        ("if a > 1:", "if a > 1: -> if True:"): "survived",
        ("if a > 1:", "if a > 1: -> if False:"): "killed",
        ("if a > 1:", "a > 1 -> a >= 1"): None,
        ("if a > 1:", "1 -> 2"): "survived",
        ("return a - 1", "a - 1 -> a + 1"): "killed",
        ("return a - 1", "1 -> 2"): "killed",
    }
    assert ast.unparse(tree) == ast.unparse(ast.parse(SOURCE))


@pytest.mark.parametrize(("ended_by", "status"), [("SIGXCPU", "timeout"), ("SIGTERM", "killed")])
def test_a_mutant_that_runs_for_ever_or_crashes_is_dead(ended_by, status):
    tree = ast.parse(SOURCE)
    job = Job(mutant=make_mutants(tree, "a.py")[0], tree=tree, tests=[])
    found = []

    def end(job):
        # A test that ran before in this process may have left a handler.
        signal.signal(getattr(signal, ended_by), signal.SIG_DFL)
        os.kill(os.getpid(), getattr(signal, ended_by))
        return "survived"

    run_jobs([job], end, workers=1, record=lambda job, outcome: found.append(outcome.status))
    assert found == [status]


def test_a_child_that_fails_by_itself_is_no_killed_mutant():
    tree = ast.parse(SOURCE)
    job = Job(mutant=make_mutants(tree, "a.py")[0], tree=tree, tests=[])

    def broken(job):
        raise KeyError("no such test")

    with pytest.raises(RuntimeError, match="no such test"):
        run_jobs([job], broken, workers=1, record=lambda *_: None)


def test_tally_counts_by_file_and_keeps_survivors():
    made = list(mutants().values())
    outcomes = [KILLED, TIMEOUT, SURVIVED, UNCOVERED, SURVIVED]
    listed = {made[4].key}
    found = tally({"a.py": made, "empty.py": []}, zip(made, outcomes, strict=False), listed)
    (row,) = found.rows
    assert (row.mutants, row.tried) == (len(made), 5)
    assert (row.killed, row.survived, row.equivalent) == (2, 2, 1)
    assert row.percent == 50.0
    assert [m.key for m, _ in found.survivors] == [made[2].key, made[3].key]
    assert found.wrong == []


def test_a_mutant_that_is_listed_and_dies_is_wrong():
    made = list(mutants().values())
    found = tally({"a.py": made}, [(made[0], KILLED)], {made[0].key})
    assert [m.key for m, _ in found.wrong] == [made[0].key]


def test_table_and_page_show_every_file_and_the_sum():
    made = list(mutants().values())
    found = tally({"a.py": made}, zip(made, [KILLED, SURVIVED], strict=False), ())
    assert f"| `a.py` | {len(made)} | 2 | 1 | 0 | 1 | 50.0 |" in table(found.rows)
    assert f"| **all** | {len(made)} | 2 | 1 | 0 | 1 | 50.0 |" in table(found.rows)
    shown = page(found.rows, command="run it", cpu_s=61.2, cap=None)
    assert "run it" in shown
    assert "61 CPU seconds" in shown
    assert "Every mutant is tried." in shown
    assert "At most 8 mutants" in page(found.rows, command="", cpu_s=0, cap=8)


# Equivalent mutants


def test_an_equivalent_mutant_is_found_after_the_lines_have_moved(root):
    entries = read_equivalents(write(root, LISTED))
    moved = SOURCE.replace("def", "\n# a comment\ndef")
    check_equivalents(entries, {"a.py": make_mutants(ast.parse(moved), "a.py")})


def test_a_stale_entry_is_an_error_that_names_it(root):
    entries = read_equivalents(write(root, LISTED))
    changed = SOURCE.replace("a - 1", "a - 3")
    with pytest.raises(LedgerError, match="return a - 1"):
        check_equivalents(entries, {"a.py": make_mutants(ast.parse(changed), "a.py")})
    # Files that are not looked at say nothing about their entries.
    check_equivalents(entries, {"b.py": []})


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('reason = "nobody calls it"', 'reason = ""', "no reason"),
        ('reason = "nobody calls it"', "", "reason"),
        ('change = "1 -> 2"', 'change = "1 -> 2"\nline = "7"', "line"),
        (LISTED, LISTED + LISTED, "listed twice"),
    ],
)
def test_an_entry_that_cannot_be_is_refused(root, old, new, says):
    with pytest.raises(LedgerError, match=says):
        read_equivalents(write(root, LISTED.replace(old, new)))


def test_the_committed_list_names_mutants_that_exist():
    entries = read_equivalents()
    files = {key[0] for key in entries}
    made = {f: make_mutants(ast.parse(ledger.text_of(f)), f) for f in files}
    check_equivalents(entries, made)


# Named mutations

NAMED = """
[[mutation]]
name = "no decrement"
file = "a.py"
old = "a - 1"
new = "a"
tests = ["tests/test_a.py"]
"""


def test_a_named_mutation_is_read(root):
    (one,) = read_named(write(root, NAMED))
    assert (one.name, one.file, one.tests) == ("no decrement", "a.py", ["tests/test_a.py"])


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"a - 1"', '"a - 2"', "occurs 0 times"),
        ('"a - 1"', '"a"', "occurs . times"),
        (NAMED, NAMED + NAMED, "used twice"),
        ('new = "a"\n', "", "new"),
    ],
)
def test_a_named_mutation_that_does_not_fit_is_refused(root, old, new, says):
    with pytest.raises(LedgerError, match=says):
        read_named(write(root, NAMED.replace(old, new)))


# Outcomes of earlier runs


def a_job():
    tree = ast.parse(SOURCE)
    tests = [KnownTest(node=f"tests/test_{x}.py::t", cpu_s=0.0, lines={}) for x in "ab"]
    return Job(mutant=make_mutants(tree, "a.py")[0], tree=tree, tests=tests)


@pytest.mark.parametrize(
    ("outcome", "file", "holds"),
    [
        (Outcome(status="killed", by="tests/test_a.py::t"), "tests/test_a.py", False),
        (Outcome(status="killed", by="tests/test_a.py::t"), "tests/test_b.py", True),
        (SURVIVED, "tests/test_b.py", False),
        (SURVIVED, "a.py", False),
    ],
)
def test_an_outcome_holds_while_what_decided_it_is_unchanged(root, outcome, file, holds):
    outcomes = Outcomes(path=root / "store" / "outcomes.jsonl")
    outcomes.put(a_job(), outcome)
    again = Outcomes(path=root / "store" / "outcomes.jsonl")
    again.load()
    assert again.get(a_job()) == replace(outcome, cpu_s=0.0)
    (root / file).write_text(SOURCE.replace("1", "3") if file == "a.py" else "changed")
    assert (again.get(a_job()) is not None) is holds


def test_a_comment_in_the_source_changes_no_outcome(root):
    outcomes = Outcomes(path=root / "store" / "outcomes.jsonl")
    outcomes.put(a_job(), SURVIVED)
    (root / "a.py").write_text("# why\n" + SOURCE)
    assert outcomes.get(a_job()) == SURVIVED


def test_a_survivor_is_tried_again_when_another_test_sees_it(root):
    outcomes = Outcomes(path=root / "store" / "outcomes.jsonl")
    job = a_job()
    outcomes.put(job, SURVIVED)
    job.tests.append(KnownTest(node="tests/test_b.py::new", cpu_s=0.0, lines={}))
    assert outcomes.get(job) is None
