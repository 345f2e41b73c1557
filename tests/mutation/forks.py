"""Forked children: one records which test runs which line, one each tries a mutant.

The server imports third-party packages once (LeRobot alone takes many CPU seconds); children are
forked from it. Refuses to know operators and tables. Read `__main__` next.
"""

from __future__ import annotations

import ast
import ctypes
import gc
import importlib.util
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import _lru_cache_wrapper
from pathlib import Path
from types import CodeType

import pytest
from _pytest.runner import runtestprotocol
from mutants import Mutant
from sources import ROOT, Hook, compile_tree, live_functions, nested, swap

# No cache of pytest's own, no workers; output is kept in memory, because children share files.
ARGUMENTS = [
    "-q",
    "--tb=native",
    "--assert=plain",
    "--capture=sys",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:xdist",
]
# A mutant may loop for ever: CPU seconds for a test, beside a multiple of what it took unmutated.
CPU_FLOOR_S, CPU_FACTOR = 3, 5
WALL_FLOOR_S, WALL_FACTOR = 60, 20
QUICK_S = 0.3


def run_pytest(nodes: Iterable[str], plugin: object) -> None:
    """pytest in this process; a property that fails is not searched for a smaller example."""
    if importlib.util.find_spec("hypothesis") is not None:
        from hypothesis import Phase, settings

        settings.register_profile(
            "mutation", deadline=None, database=None, phases=(Phase.explicit, Phase.generate)
        )
        settings.load_profile("mutation")
    pytest.main([*nodes, *ARGUMENTS], plugins=[plugin])


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownTest:
    """One test as the unmutated code runs it."""

    node: str
    cpu_s: float
    lines: dict[str, set[int]]
    """Lines of `pirl` by file, with those of the fixtures that it shares with others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a mutant."""

    status: str
    """`killed`, `timeout` (counts as killed), `survived` or `uncovered` (no test runs the line)."""
    by: str = ""
    """The test that failed."""
    cpu_s: float = 0.0

    @property
    def is_alive(self) -> bool:
        """Whether no test saw the mutant."""
        return self.status in ("survived", "uncovered")


@dataclass(slots=True, kw_only=True)
class Job:
    """A mutant and the tests that see it, quickest first."""

    mutant: Mutant
    tree: ast.Module
    """The unmutated module to which `mutant.apply` belongs."""
    tests: list[KnownTest]
    code: Callable[[], CodeType] | None = None
    """Makes the mutated code where it is no change of `tree`."""

    def prefer(self, nodes: list[str]) -> None:
        """Run these tests first, if they are among those of the job and quick."""
        self.tests.sort(key=lambda test: test.node not in nodes or test.cpu_s > QUICK_S)

    def mutated(self) -> CodeType:
        if self.code is not None:
            return self.code()
        self.mutant.apply()
        return compile_tree(self.tree, self.mutant.file)


# Children


def fork(work: Callable[[], str], *, folder: Path) -> int:
    """The process id of a child that writes the result of `work` to `folder/result` and ends.

    The child leads a process group of its own, and is killed when the process that forked it ends.
    What it prints is lost unless PIRL_MUTATION_SHOW is set.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.setsid()
        _end_with_parent()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if not os.environ.get("PIRL_MUTATION_SHOW"):
            with Path(os.devnull).open("r+b") as nothing:
                for descriptor in (0, 1, 2):
                    os.dup2(nothing.fileno(), descriptor)
        os.environ["PYTEST_DEBUG_TEMPROOT"] = tempfile.tempdir = str(folder)
        (folder / "result").write_text(work(), encoding="utf-8")
        code = 0
    except BaseException as error:
        (folder / "result").write_text(f"error {error!r}", encoding="utf-8")
        raise
    finally:
        # Exit handlers and buffers belong to the server.
        os._exit(code)


def _end_with_parent() -> None:
    """Linux sends SIGKILL when the parent is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


@dataclass(slots=True)
class _Child:
    job: Job
    folder: Path
    deadline: float


def run_jobs(
    jobs: Iterable[Job],
    attempt: Callable[[Job], str],
    *,
    workers: int,
    record: Callable[[Job, Outcome | None], None],
) -> None:
    """Fork a child per job, at most `workers` at once; `record` gets None where `attempt` declined.

    Tests that killed other mutants of the file come first, then the quickest.
    """
    waiting, running = list(jobs)[::-1], dict[int, _Child]()
    killers: dict[str, Counter[str]] = defaultdict(Counter)
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.pop()
                job.prefer([node for node, _ in killers[job.mutant.file].most_common(5)])
                folder = Path(tempfile.mkdtemp(prefix="pirl-mutant-"))
                limit = WALL_FLOOR_S + WALL_FACTOR * sum(t.cpu_s for t in job.tests)
                child = fork(lambda job=job: attempt(job), folder=folder)
                running[child] = _Child(job, folder, time.monotonic() + limit)
            ended = _wait(running)
            if ended is not None:
                child, status, used = ended
                one = running.pop(child)
                outcome = _outcome(one.folder, status, used)
                if outcome is not None and "::" in outcome.by:
                    killers[one.job.mutant.file][outcome.by] += 1
                record(one.job, outcome)
                shutil.rmtree(one.folder, ignore_errors=True)
    finally:
        for child, one in running.items():
            _kill(child)
            os.waitpid(child, 0)
            shutil.rmtree(one.folder, ignore_errors=True)


def _wait(running: dict[int, _Child]) -> tuple[int, int, float] | None:
    """A child that ended, its status and CPU seconds; None after a short while without one."""
    for child, one in running.items():
        found, status, usage = os.wait4(child, os.WNOHANG)
        if found:
            _kill(child)
            return child, status, usage.ru_utime + usage.ru_stime
        if time.monotonic() > one.deadline:
            _kill(child)
    time.sleep(0.005)
    return None


def _kill(group: int) -> None:
    """End a child and what it started."""
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _outcome(folder: Path, status: int, used: float) -> Outcome | None:
    if os.WIFSIGNALED(status):
        slow = os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)
        return Outcome(status="timeout" if slow else "killed", by="(signal)", cpu_s=used)
    word, _, rest = (folder / "result").read_text(encoding="utf-8").partition(" ")
    if word == "error":
        raise RuntimeError(f"a child of the mutation runner failed: {rest}")
    return None if word == "declined" else Outcome(status=word, by=rest, cpu_s=used)


# Tests inside a child


def _limit_cpu(test: KnownTest) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime + CPU_FLOOR_S + CPU_FACTOR * test.cpu_s) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))


def _run_items(every: list[pytest.Item], tests: list[KnownTest]) -> str:
    """Run the tests in their order until one fails; a node may be a file or a function as well."""
    by_node: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in every:
        for node in (item.nodeid, item.nodeid.split("[")[0], item.nodeid.split("::")[0]):
            if item not in by_node[node]:
                by_node[node].append(item)
    wanted = [(item, test) for test in tests for item in by_node[test.node]]
    if {test.node for _, test in wanted} != {test.node for test in tests}:
        raise LookupError(f"no such test: {[t.node for t in tests if not by_node[t.node]]}")
    for i, (item, test) in enumerate(wanted):
        _limit_cpu(test)
        following = wanted[i + 1][0] if i + 1 < len(wanted) else None
        reports = runtestprotocol(item, nextitem=following, log=False)
        if any(report.failed for report in reports):
            return f"killed {item.nodeid}"
    return "survived"


def swapped(workers: int, jobs: list[Job], record: Callable[[Job, Outcome | None], None]) -> None:
    """Try each mutant in a child of a process that has imported and collected everything.

    To be called in a child of the server. Jobs whose change lies outside functions are declined.
    """
    files = sorted({test.node.partition("::")[0] for job in jobs for test in job.tests})
    server = _SwapServer(workers, jobs, record)
    run_pytest(files, server)
    if not server.ran:
        raise RuntimeError("pytest ended before a mutant was tried")


class _SwapServer:
    """pytest collects; instead of running the tests once, this runs some of them for each mutant."""

    def __init__(self, workers: int, jobs: list[Job], record: Callable) -> None:
        self.workers, self.jobs, self.record = workers, jobs, record
        self.ran = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        live = live_functions()
        gc.collect()
        gc.freeze()

        def attempt(job: Job) -> str:
            before = compile_tree(job.tree, job.mutant.file)
            if not swap(before, job.mutated(), live):
                return "declined"
            return _run_items(session.items, job.tests)

        run_jobs(self.jobs, attempt, workers=self.workers, record=self.record)
        self.ran = True
        return True


def imported(job: Job) -> str:
    """Import the mutated module afresh and run the tests; in a child of the bare server."""
    code = job.mutated()
    Hook({job.mutant.file: lambda: code}).install()
    runner = _ImportRunner(job)
    resource.setrlimit(resource.RLIMIT_CPU, (120, resource.RLIM_INFINITY))
    run_pytest((test.node for test in job.tests), runner)
    # No result: the mutated module cannot be imported, or a test file cannot be.
    return runner.result or "killed (import)"


class _ImportRunner:
    def __init__(self, job: Job) -> None:
        self.job = job
        self.result = ""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if not session.testsfailed:
            self.result = _run_items(session.items, self.job.tests)
        return True


# Lines of each test


def record_lines(paths: list[str], files: list[str]) -> str:
    """JSON of the tests under `paths`, the lines of `files` that each runs, and what was imported."""
    recorder = _Recorder(files)
    recorder.hook.install()
    run_pytest(paths, recorder)
    return json.dumps(recorder.result())


@dataclass(slots=True, eq=False)
class _Recorder:
    """Lines by test, with those of a shared fixture credited to every test that asks for it."""

    files: list[str]
    hook: Hook = field(init=False)
    names: dict[str, str] = field(init=False)
    current: set[tuple[str, int]] = field(init=False)
    at_import: set[tuple[str, int]] = field(default_factory=set)
    by_fixture: dict[int, set[tuple[str, int]]] = field(default_factory=dict)
    by_test: dict[str, tuple[set[tuple[str, int]], list[int], float]] = field(default_factory=dict)
    caches: list[_lru_cache_wrapper] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)
    skipped: set[str] = field(default_factory=set)
    modules: list[str] = field(default_factory=list)
    """Third-party modules that the tests import before any of them runs."""

    def __post_init__(self) -> None:
        self.current = self.at_import
        self.names = {str(ROOT / file): file for file in self.files}
        self.hook = Hook({file: lambda file=file: self._instrumented(file) for file in self.files})
        monitoring = sys.monitoring
        monitoring.use_tool_id(monitoring.COVERAGE_ID, "pirl-mutation")
        monitoring.register_callback(monitoring.COVERAGE_ID, monitoring.events.LINE, self._line)

    def _instrumented(self, file: str) -> CodeType:
        code = compile_tree(ast.parse((ROOT / file).read_text(encoding="utf-8")), file)
        for inner in nested(code):
            sys.monitoring.set_local_events(
                sys.monitoring.COVERAGE_ID, inner, sys.monitoring.events.LINE
            )
        return code

    def _line(self, code: CodeType, line: int) -> object:
        self.current.add((self.names[code.co_filename], line))
        return sys.monitoring.DISABLE

    def pytest_collection_finish(self) -> None:
        self.modules = [
            name
            for name, module in list(sys.modules.items())
            if (getattr(module, "__file__", None) or "").startswith(sys.prefix)
        ]
        # A cache would credit what it keeps to the first test alone.
        self.caches = [
            thing
            for thing in gc.get_objects()
            if type(thing) is _lru_cache_wrapper
            and is_ours(getattr(sys.modules.get(thing.__module__), "__file__", None))
        ]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item):
        for cache in self.caches:
            cache.cache_clear()
        self.current = set()
        sys.monitoring.restart_events()
        started = time.process_time()
        try:
            return (yield)
        finally:
            # Name to definitions: those that the test sees, its own fixtures and those they need.
            definitions = item._fixtureinfo.name2fixturedefs.values()
            shared = [id(one) for several in definitions for one in several]
            took = time.process_time() - started
            self.by_test[item.nodeid] = (self.current, shared, took)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef):
        if fixturedef.scope == "function":
            return (yield)
        outer = self.current
        self.current = self.by_fixture.setdefault(id(fixturedef), set())
        sys.monitoring.restart_events()
        try:
            return (yield)
        finally:
            self.current = outer
            sys.monitoring.restart_events()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.add(report.nodeid)
        if report.skipped:
            self.skipped.add(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failed.add(report.nodeid)

    def result(self) -> dict[str, object]:
        tests = []
        for node, (lines, shared, took) in self.by_test.items():
            if node not in self.failed | self.skipped:
                every = lines.union(*(self.by_fixture.get(one, ()) for one in shared))
                tests.append({"node": node, "cpu_s": round(took, 4), "lines": _by_file(every)})
        return {
            "tests": tests,
            "at_import": _by_file(self.at_import),
            "modules": self.modules,
            "failed": sorted(self.failed),
        }


def _by_file(lines: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for file, line in sorted(lines):
        found.setdefault(file, []).append(line)
    return found


def is_ours(path: str | None) -> bool:
    """Whether a file belongs to the repository and not to an environment inside it."""
    return bool(path) and path.startswith(str(ROOT)) and not path.startswith(sys.prefix)


def preload(modules: Iterable[str]) -> None:
    """Import third-party packages, so that children find them."""
    for name in modules:
        try:
            importlib.import_module(name)
        except (ImportError, AttributeError, RuntimeError):
            continue  # Made by its package and not to be had alone.
