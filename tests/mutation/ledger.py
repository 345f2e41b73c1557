"""What is kept between runs: lines of tests, outcomes, equivalent mutants, the named list, the table.

Refuses to know processes. Read `__main__` next.
"""

from __future__ import annotations

import ast
import hashlib
import json
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from forks import Job, KnownTest, Outcome
from mutants import NEVER, OPERATORS, Mutant
from sources import ROOT

EQUIVALENTS = Path(__file__).with_name("equivalents.toml")
STORE = ROOT / ".mutations"
WANTED_PERCENT = 95.0


class LedgerError(Exception):
    """An entry that cannot be, or a list that no longer fits the source."""


def digest(*parts: str) -> str:
    """SHA-256 of texts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def text_of(file: str) -> str:
    """A file of the repository."""
    return (ROOT / file).read_text(encoding="utf-8")


def files_under(folder: str) -> list[str]:
    """Python files below a folder, sorted."""
    return sorted(str(p.relative_to(ROOT)) for p in (ROOT / folder).rglob("*.py"))


# Equivalent mutants


@dataclass(frozen=True, slots=True)
class Equivalent:
    """A mutant that no test can see, and why."""

    file: str
    function: str
    statement: str
    change: str
    reason: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.file, self.function, self.statement, self.change


def read_equivalents(path: Path = EQUIVALENTS) -> dict[tuple[str, str, str, str], Equivalent]:
    """Entries by the key of their mutant.

    Raises:
        LedgerError: a field is missing, unknown or empty, or a mutant is listed twice.
    """
    found: dict[tuple[str, str, str, str], Equivalent] = {}
    for entry in tomllib.loads(path.read_text(encoding="utf-8")).get("equivalent", []):
        try:
            one = Equivalent(**{name: " ".join(value.split()) for name, value in entry.items()})
        except TypeError as error:
            raise LedgerError(f"{path.name}: {error} in {entry}") from None
        if not one.reason or one.key in found:
            raise LedgerError(f"{path.name}: no reason, or listed twice: {entry}")
        found[one.key] = one
    return found


def check_equivalents(
    entries: Iterable[tuple[str, str, str, str]], mutants: Mapping[str, list[Mutant]]
) -> None:
    """Each entry must name a mutant of today's source.

    Raises:
        LedgerError: naming every stale entry of the files in `mutants`.
    """
    known = {mutant.key for several in mutants.values() for mutant in several}
    stale = [key for key in entries if key[0] in mutants and key not in known]
    if stale:
        shown = "\n".join(f"  {file}: {function}: {rest}" for file, function, *rest in stale)
        raise LedgerError(f"equivalents.toml: no such mutant any more; delete or mend:\n{shown}")


# Named mutations


@dataclass(frozen=True, slots=True)
class Named:
    """A mutation written by hand: text of a file, what replaces it, and the tests that must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: list[str]


def read_named(path: Path) -> list[Named]:
    """The list; `old` must occur exactly once in its file.

    Raises:
        LedgerError: a field is missing or unknown, a name is used twice, or `old` is not there.
    """
    found: list[Named] = []
    for entry in tomllib.loads(path.read_text(encoding="utf-8")).get("mutation", []):
        try:
            one = Named(**entry)
        except TypeError as error:
            raise LedgerError(f"{path.name}: {error} in {entry}") from None
        if one.name in {other.name for other in found}:
            raise LedgerError(f"{path.name}: the name {one.name!r} is used twice")
        if (count := text_of(one.file).count(one.old)) != 1:
            raise LedgerError(f"{path.name}: {one.name!r}: old text occurs {count} times, not once")
        found.append(one)
    return found


# Lines of tests


@dataclass(slots=True)
class Lines:
    """Tests with the lines that they run, by test file; recorded again where a source changed."""

    path: Path = STORE / "lines.json"
    by_file: dict[str, dict] = field(default_factory=dict)
    """`own` digest of the test file, digests of the `sources` that its tests run, and its `tests`."""
    import_lines: dict[str, list[int]] = field(default_factory=dict)
    modules: list[str] = field(default_factory=list)
    """What is imported beside `pirl` and the tests."""

    def __post_init__(self) -> None:
        if self.path.exists():
            stored = json.loads(self.path.read_text(encoding="utf-8"))
            self.by_file, self.modules = stored["by_file"], stored["modules"]
            self.import_lines = stored["import_lines"]

    def update(self, test_files: list[str], record: Callable[[list[str]], str]) -> None:
        """Record the test files that are new or whose sources changed.

        Raises:
            LedgerError: a test fails unmutated; the other test files are recorded nevertheless.
        """
        sources = {file: digest(text_of(file)) for file in files_under("pirl")}
        own = {f: digest(*map(text_of, [f, *_helpers(f)])) for f in test_files}
        old = [f for f in test_files if not self._is_fresh(f, own[f], sources)]
        self.by_file = {file: self.by_file[file] for file in test_files if file not in old}
        if not old:
            return
        new = json.loads(record(old))
        self.modules = list(dict.fromkeys([*self.modules, *new["modules"]]))
        self.import_lines |= new["at_import"]
        failed = {node.partition("::")[0] for node in new["failed"]}
        for file in set(old) - failed:
            tests = [t for t in new["tests"] if t["node"].partition("::")[0] == file]
            run = sorted({source for t in tests for source in t["lines"]})
            self.by_file[file] = {
                "own": own[file],
                "sources": {source: sources[source] for source in run},
                "tests": tests,
            }
        self.path.parent.mkdir(exist_ok=True)
        stored = {
            "by_file": self.by_file,
            "modules": self.modules,
            "import_lines": self.import_lines,
        }
        self.path.write_text(json.dumps(stored), encoding="utf-8")
        if failed:
            raise LedgerError(f"tests fail before anything is mutated: {new['failed']}")

    def _is_fresh(self, file: str, own: str, sources: Mapping[str, str]) -> bool:
        known = self.by_file.get(file)
        return (
            known is not None
            and known["own"] == own
            and all(sources.get(f) == was for f, was in known["sources"].items())
        )

    def tests(self) -> list[KnownTest]:
        """Every test, quickest first."""
        tests = [
            KnownTest(
                node=t["node"],
                cpu_s=t["cpu_s"],
                lines={file: set(lines) for file, lines in t["lines"].items()},
            )
            for record in self.by_file.values()
            for t in record["tests"]
        ]
        return sorted(tests, key=lambda test: (test.cpu_s, test.node))

    def at_import(self, file: str) -> set[int]:
        """Lines of a file that run when it is imported."""
        return set(self.import_lines.get(file, ()))


def _helpers(test_file: str) -> list[str]:
    """What a test file imports from its own folder, or may."""
    folder = str(Path(test_file).parent)
    return [f for f in files_under(folder) if not Path(f).name.startswith("test_")]


# Outcomes


@dataclass(slots=True)
class Outcomes:
    """Outcomes by mutant; one holds while its source and the tests that decided it are unchanged."""

    path: Path = STORE / "outcomes.jsonl"
    known: dict[str, dict] = field(default_factory=dict)

    def load(self) -> None:
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                entry = json.loads(line)
                self.known[entry["digest"]] = entry

    def get(self, job: Job) -> Outcome | None:
        """The outcome of an earlier run, where nothing that decided it changed."""
        entry = self.known.get(job.mutant.digest)
        if entry is None or entry["basis"] != _basis(job, entry["by"]):
            return None
        return Outcome(status=entry["status"], by=entry["by"], cpu_s=entry["cpu_s"])

    def put(self, job: Job, outcome: Outcome) -> None:
        self.path.parent.mkdir(exist_ok=True)
        entry = {
            "digest": job.mutant.digest,
            "basis": _basis(job, outcome.by),
            "status": outcome.status,
            "by": outcome.by,
            "cpu_s": round(outcome.cpu_s, 3),
        }
        self.known[job.mutant.digest] = entry
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def _basis(job: Job, by: str) -> str:
    """Digest of the mutated file and of the test that killed it, or of all that let it live."""
    source = ast.unparse(ast.parse(text_of(job.mutant.file)))
    killer = by.partition("::")[0]
    if killer.startswith("tests/") and (ROOT / killer).exists():
        return digest(source, text_of(killer))
    files = sorted({test.node.partition("::")[0] for test in job.tests})
    nodes = sorted(test.node for test in job.tests)
    return digest(source, *map(text_of, files), *nodes)


# The table


@dataclass(slots=True, kw_only=True)
class Row:
    """Counts of one file."""

    file: str
    mutants: int = 0
    """All that the operators make, before sampling."""
    tried: int = 0
    killed: int = 0
    """With those that ran out of time."""
    equivalent: int = 0
    survived: int = 0
    """With those that no test runs."""

    @property
    def percent(self) -> float:
        """Killed of those tried that are not equivalent; 100 where there are none."""
        real = self.killed + self.survived
        return 100.0 * self.killed / real if real else 100.0


@dataclass(slots=True, kw_only=True)
class Tally:
    """What a run found."""

    rows: list[Row]
    """Of the files that have mutants."""
    survivors: list[tuple[Mutant, Outcome]]
    wrong: list[tuple[Mutant, Outcome]]
    """Listed as equivalent, and killed."""


def tally(
    mutants: Mapping[str, list[Mutant]],
    tried: Iterable[tuple[Mutant, Outcome]],
    equivalents: Iterable[tuple[str, str, str, str]],
) -> Tally:
    """Count outcomes by file."""
    rows = {file: Row(file=file, mutants=len(made)) for file, made in mutants.items() if made}
    found = Tally(rows=list(rows.values()), survivors=[], wrong=[])
    listed = set(equivalents)
    for mutant, outcome in tried:
        row = rows[mutant.file]
        row.tried += 1
        if mutant.key in listed:
            row.equivalent += 1
            if not outcome.is_alive:
                found.wrong.append((mutant, outcome))
        elif outcome.is_alive:
            row.survived += 1
            found.survivors.append((mutant, outcome))
        else:
            row.killed += 1
    return found


_TABLE_HEAD = (
    "| file | mutants | tried | killed | equivalent | survived | killed % |\n"
    "|---|---|---|---|---|---|---|"
)


def table(rows: list[Row]) -> str:
    """The rows and their sum as Markdown."""
    total = Row(file="all")
    for row in rows:
        for name in ("mutants", "tried", "killed", "equivalent", "survived"):
            setattr(total, name, getattr(total, name) + getattr(row, name))
    shown = [
        f"| {f'`{row.file}`' if row is not total else '**all**'} | {row.mutants} | {row.tried} | "
        f"{row.killed} | {row.equivalent} | {row.survived} | {row.percent:.1f} |"
        for row in [*rows, total]
    ]
    return "\n".join([_TABLE_HEAD, *shown])


def page(rows: list[Row], *, command: str, cpu_s: float, cap: int | None) -> str:
    """`docs/mutations.md`."""
    operators = "\n".join(f"| {name} | {meaning} |" for name, meaning in OPERATORS)
    sampled = (
        "Every mutant is tried."
        if cap is None
        else f"At most {cap} mutants of each function are tried: those with the smallest SHA-256 of "
        "their name, so that\nthe choice is the same in every run and a change elsewhere does not move it."
    )
    return f"""# Mutations

What the tests see: one operator of one line is changed, the tests that run the line are run, quickest
first, and one of them must fail. Written by the command below; not edited by hand.

```
{command}
```

{cpu_s:.0f} CPU seconds in all mutants together, and about 90 before the first; on two free cores half as
many seconds. {sampled}
Equivalent mutants, each with its reason, are in `tests/mutation/equivalents.toml`: matched by file,
function, normalised statement and change, so that shifted lines do not lose them; an entry without its
mutant, or whose mutant is killed, is an error (exit code 2). Exit code 1: a file is below {WANTED_PERCENT:.0f} %.

{table(rows)}

"Killed" includes mutants whose test ran out of CPU time or whose module could not be imported; "survived"
includes lines that no test runs.

| operator | change |
|---|---|
{operators}

Left alone: {NEVER}.

## Why a runner of our own

`mutmut` and `cosmic-ray` start a process for each mutant or import the package again, and importing torch
and LeRobot takes 17 CPU seconds: half a day for these files. Here one process imports and collects
everything and forks a child per mutant, which exchanges the code objects of the changed functions in
place; where code outside functions changes, a child of a process that has only the third-party packages
imports `pirl` afresh. The lines that a test runs come from `sys.monitoring`, which costs nothing for lines
already seen. Outcomes are kept in `.mutations/` and reused while the mutated file and the deciding tests
are unchanged, so that an interrupted run goes on; `--fresh` starts over.

`python tests/mutation --help` has the options: `--files`, `--only-changed`, `--cap`, `--jobs`, `--json`,
`--fresh`, and `--named LIST`, which runs mutations written by hand (name, file, old, new, tests), each of
which must be killed. `tests/oracle/mutations.toml` is such a list, of the objective's terms; the short form of
it is `python tests/mutation --named tests/oracle/mutations.toml --sample 30`, without recorded lines.
"""
