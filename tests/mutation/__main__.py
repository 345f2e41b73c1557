"""Mutate the modules whose errors no run would show, and print the mutants that no test sees.

python tests/mutation [--files GLOB ...] [--only-changed [REV]] [--cap N] [--jobs N] [--json FILE]
                      [--fresh] [--write]      every mutant of the targets, or a sample
python tests/mutation --named LIST [--sample N]   mutations written by hand; each must be killed

Exit codes: 0 passed, 1 a file is below the wanted percentage or a named mutation survived, 2 the
tests fail unmutated or a list does not fit the source.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from fnmatch import fnmatch
from functools import cache, partial
from pathlib import Path

import forks
from forks import Job, KnownTest, Outcome
from ledger import (
    STORE,
    WANTED_PERCENT,
    LedgerError,
    Lines,
    Outcomes,
    Tally,
    check_equivalents,
    digest,
    files_under,
    page,
    read_equivalents,
    read_named,
    table,
    tally,
    text_of,
)
from mutants import Mutant, make_mutants
from sources import ROOT, compile_tree

TARGETS = (
    "pirl/contract/*.py",
    "pirl/policies/xvla/*.py",
    "pirl/runtime/batch.py",
    "pirl/runtime/lockstep.py",
    "pirl/runtime/store.py",
    "pirl/runtime/door.py",
    "pirl/runtime/rollout.py",
    "pirl/checkpoint/*.py",
    "pirl/transport/admission.py",
    "pirl/audit/*.py",
    "pirl/algorithm/*.py",
)
NOT_TARGETS = ("pirl/audit/pictures.py",)
"""Its pictures illustrate: no verdict follows from them, and the verifier does not draw them again."""
TESTS = ("tests/unit", "tests/contract", "tests/oracle", "tests/audit")
NOT_TESTS = "tests/unit/mutation/"
"""The runner's own."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python tests/mutation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--files", nargs="+", metavar="GLOB", help="only targets that match")
    parser.add_argument(
        "--only-changed",
        nargs="?",
        const="HEAD",
        metavar="REV",
        help="only targets that differ from REV",
    )
    parser.add_argument("--cap", type=int, metavar="N", help="at most N mutants of a function")
    parser.add_argument("--jobs", type=int, default=2, choices=(1, 2), help="workers (2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write counts and survivors")
    parser.add_argument("--fresh", action="store_true", help="forget what earlier runs found")
    parser.add_argument("--write", action="store_true", help="write docs/mutations.md")
    parser.add_argument("--named", type=Path, metavar="LIST", help="run this list instead")
    parser.add_argument("--sample", type=int, metavar="N", help="of the list, N entries")
    return parser.parse_args()


def chosen_files(patterns: list[str] | None, revision: str | None) -> list[str]:
    """Targets that the options leave."""
    files = [f for target in TARGETS for f in files_under("pirl") if fnmatch(f, target)]
    files = [f for f in files if f not in NOT_TARGETS]
    if patterns is not None:
        files = [f for f in files if any(fnmatch(f, pattern) for pattern in patterns)]
    if revision is not None:
        argv = ["git", "diff", "--name-only", revision, "--"]
        shown = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
        files = [f for f in files if f in shown.splitlines()]
    return files


def sample(mutants: list[Mutant], cap: int | None) -> list[Mutant]:
    """At most `cap` mutants of each function, by the digest of their names."""
    taken: dict[str, list[Mutant]] = {}
    for mutant in sorted(mutants, key=lambda one: one.digest):
        taken.setdefault(mutant.function, []).append(mutant)
    chosen = {one.digest for several in taken.values() for one in several[:cap]}
    return [mutant for mutant in mutants if mutant.digest in chosen]


@cache
def lines_by_name() -> dict[str, set[tuple[str, int]]]:
    """Lines of `pirl` by the names that stand there."""
    found: dict[str, set[tuple[str, int]]] = {}
    for file in files_under("pirl"):
        for node in ast.walk(ast.parse(text_of(file))):
            name = getattr(node, "attr", None) or getattr(node, "id", None)
            if isinstance(node, ast.keyword):
                name = node.arg
            if isinstance(name, str):
                found.setdefault(name, set()).add((file, node.lineno))
    return found


def tests_by_line(tests: list[KnownTest]) -> dict[tuple[str, int], list[int]]:
    """Positions in `tests` of those that run a line."""
    found: dict[tuple[str, int], list[int]] = {}
    for position, test in enumerate(tests):
        for file, numbers in test.lines.items():
            for number in numbers:
                found.setdefault((file, number), []).append(position)
    return found


def lines_of(mutant: Mutant, at_import: set[int]) -> set[tuple[str, int]]:
    """The lines whose tests can see a mutant."""
    if mutant.at_import:
        # Run once for all tests: those count that run a line which names what is bound there.
        lines = set().union(*(lines_by_name().get(name, ()) for name in mutant.names))
        first, last = mutant.body or (1, 0)
        return lines | {(mutant.file, number) for number in range(first, last + 1)}
    own = set(range(mutant.lines[0], mutant.lines[1] + 1))
    if own & at_import:
        own = set(range(1, 1 + text_of(mutant.file).count("\n"))) - at_import
    return {(mutant.file, number) for number in own}


def is_named_in(test: KnownTest, mutant: Mutant) -> bool:
    """Whether the file of a test names the class, function or constant that is mutated.

    What a class makes of its fields by itself, `__init__` for one, has no line of its own.
    """
    owner = mutant.function.rsplit(".", 1)[-1]
    names = {owner} if owner else mutant.names
    return not names.isdisjoint(words_of(test.node.partition("::")[0]))


@cache
def words_of(file: str) -> frozenset[str]:
    """Every word of a file."""
    return frozenset(re.findall(r"\w+", text_of(file)))


def in_child(work: Callable[[], str]) -> str:
    """Result of `work`, done in a forked child."""
    with tempfile.TemporaryDirectory(prefix="pirl-mutation-") as name:
        child = forks.fork(work, folder=Path(name))
        _, status = os.waitpid(child, 0)
        result = (Path(name) / "result").read_text(encoding="utf-8")
    if status != 0:
        raise LedgerError(result)
    return result


def record_lines(test_files: list[str], modules: list[str]) -> str:
    forks.preload(modules)  # Wanted later in any case.
    say(f"[mutation] recording the lines of {len(test_files)} test files")
    return in_child(lambda: forks.record_lines(test_files, files_under("pirl")))


def try_all(jobs: list[Job], lines: Lines, outcomes: Outcomes, workers: int) -> dict[str, Outcome]:
    """Outcome of every job by the digest of its mutant."""
    done = {job.mutant.digest: known for job in jobs if (known := outcomes.get(job))}
    waiting = [job for job in jobs if job.mutant.digest not in done]
    say(f"[mutation] {len(jobs)} mutants, {len(done)} of them known from earlier runs")

    def record(job: Job, outcome: Outcome | None) -> None:
        if outcome is not None:
            outcomes.put(job, outcome)
            if outcome.status == "survived":
                say(f"survived  {shown(job.mutant)}")

    for job in [job for job in waiting if not job.tests]:
        record(job, Outcome(status="uncovered"))
    waiting = [job for job in waiting if job.tests]
    if waiting:
        forks.preload(lines.modules)
    inside = [job for job in waiting if not needs_import(job, lines)]
    if inside:
        in_child(lambda: forks.swapped(workers, inside, record) or "")
        outcomes.load()
    rest = [job for job in waiting if outcomes.get(job) is None]
    forks.run_jobs(rest, forks.imported, workers=workers, record=record)
    return {job.mutant.digest: outcome for job in jobs if (outcome := outcomes.get(job))}


def needs_import(job: Job, lines: Lines) -> bool:
    """Whether the change has happened by the time that a process has imported everything."""
    first, last = job.mutant.lines
    at_import = lines.at_import(job.mutant.file)
    return job.mutant.at_import or not at_import.isdisjoint(range(first, last + 1))


def shown(mutant: Mutant) -> str:
    return (
        f"{mutant.file}:{mutant.lines[0]} {mutant.function}: {mutant.change}\n"
        f"          in {mutant.statement}"
    )


def test_files() -> list[str]:
    """Files of the tests that may see a mutant."""
    files = [f for folder in TESTS for f in files_under(folder)]
    return [f for f in files if Path(f).name.startswith("test_") and not f.startswith(NOT_TESTS)]


def run_targets(args: argparse.Namespace) -> int:
    started = time.monotonic()
    files = chosen_files(args.files, args.only_changed)
    equivalents = read_equivalents()
    trees = {file: ast.parse(text_of(file)) for file in files}
    mutants = {file: make_mutants(tree, file) for file, tree in trees.items()}
    check_equivalents(equivalents, mutants)
    if args.fresh:
        for path in STORE.glob("*.json*"):
            path.unlink()
    lines, outcomes = Lines(), Outcomes()
    outcomes.load()
    lines.update(test_files(), partial(record_lines, modules=lines.modules))
    tests = lines.tests()
    by_line = tests_by_line(tests)
    jobs = []
    for file in files:
        at_import = lines.at_import(file)
        for mutant in sample(mutants[file], args.cap):
            seen = {n for line in lines_of(mutant, at_import) for n in by_line.get(line, ())}
            if mutant.at_import:
                seen |= {n for n, test in enumerate(tests) if is_named_in(test, mutant)}
            jobs.append(
                Job(mutant=mutant, tree=trees[file], tests=[tests[n] for n in sorted(seen)])
            )
    results = try_all(jobs, lines, outcomes, args.jobs)
    found = tally(mutants, [(job.mutant, results[job.mutant.digest]) for job in jobs], equivalents)
    cpu_s = sum(outcome.cpu_s for outcome in results.values())
    report(args, found, cpu_s=cpu_s, wall_s=time.monotonic() - started)
    if found.wrong:
        what = "\n".join(f"{shown(m)}\n          killed by {o.by}" for m, o in found.wrong)
        raise LedgerError(f"listed as equivalent, and killed:\n{what}")
    return int(any(row.percent < WANTED_PERCENT for row in found.rows))


def report(args: argparse.Namespace, found: Tally, *, cpu_s: float, wall_s: float) -> None:
    """Survivors and table on standard output, and in the files that were asked for."""
    for mutant, outcome in found.survivors:
        print(f"{outcome.status:9} {shown(mutant)}")
    print(table(found.rows))
    print(f"{cpu_s:.0f} CPU s in children, {wall_s:.0f} s")
    if args.json:
        record = {
            "rows": [asdict(row) | {"percent": row.percent} for row in found.rows],
            "survivors": [
                dict(zip(("file", "function", "statement", "change"), m.key, strict=True))
                | {"line": m.lines[0], "status": o.status}
                for m, o in found.survivors
            ],
            "cpu_s": cpu_s,
            "wall_s": wall_s,
        }
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if args.write:
        cap = [] if args.cap is None else ["--cap", str(args.cap)]
        files = ["--files", *args.files] if args.files else []
        command = shlex.join(["python", "tests/mutation", *cap, *files, "--write"])
        text = page(found.rows, command=command, cpu_s=cpu_s, cap=args.cap)
        Path("docs/mutations.md").write_text(text, encoding="utf-8")


def run_named(path: Path, count: int | None, workers: int) -> int:
    """Every mutation of the list, or of a sample of it, must be killed by one of its tests."""
    jobs = []
    for one in sorted(read_named(path), key=lambda one: digest(one.name))[:count]:
        text = text_of(one.file).replace(one.old, one.new)
        mutant = Mutant(
            file=one.file,
            function="",
            statement=one.name,
            change=one.new,
            operator="named",
            lines=(1, 1),
            at_import=False,
        )
        code = partial(compile_tree, ast.parse(text), one.file)
        tests = [KnownTest(node=node, cpu_s=10.0, lines={}) for node in one.tests]
        tree = ast.parse(text_of(one.file))
        jobs.append(Job(mutant=mutant, tree=tree, tests=tests, code=code))
    results: dict[str, Outcome] = {}

    def record(job: Job, outcome: Outcome | None) -> None:
        if outcome is not None:
            results[job.mutant.statement] = outcome

    def inside() -> str:
        forks.swapped(workers, jobs, record)
        return json.dumps({name: asdict(outcome) for name, outcome in results.items()})

    found = json.loads(in_child(inside))
    results = {name: Outcome(**outcome) for name, outcome in found.items()}
    rest = [job for job in jobs if job.mutant.statement not in results]
    forks.run_jobs(rest, forks.imported, workers=workers, record=record)
    for name, outcome in sorted(results.items()):
        print(f"{outcome.status:9} {name}  {outcome.by}")
    return int(any(outcome.is_alive for outcome in results.values()))


def main() -> int:
    args = options()
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"  # Forked children and thread pools do not go together.
    sys.path.insert(0, str(ROOT))
    os.chdir(ROOT)
    os.nice(10)
    try:
        if args.named:
            return run_named(args.named, args.sample, args.jobs)
        return run_targets(args)
    except LedgerError as error:
        say(f"[mutation] {error}")
        return 2


if __name__ == "__main__":
    sys.exit(main())
