"""One whole run with something done to it, and what must be the same afterwards.

Owns a learner and two actors that are started again whenever something ended them, the ways to disturb them,
and the comparison with an undisturbed run. Refuses to know how many trials there are: `chaos` counts them.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "integration"))

from damaging_proxy import DamagingProxy
from toy_run import Run, a_run

from pirl.checkpoint import verify_manifest
from pirl.checkpoint.locate import step_folders
from pirl.checkpoint.manifest import MANIFEST_NAME
from pirl.errors import ExitCode, PirlError
from pirl.gate import forked
from pirl.journal.metric_log import read_json_lines, read_metrics
from pirl.journal.metrics import METRICS

UPDATES = 6
LEARNER, ACTORS = "learner", ("actor-0", "actor-1")
ROLES = (LEARNER, *ACTORS)
PACE_S = 0.03
"""Of a chunk of the toy simulator, so that a rollout has a middle to be struck in."""
SETTINGS = {
    "runtime_total_updates": f"{UPDATES}",
    "runtime_actor_timeout_s": "3",
    "runtime_rollout_timeout_s": "14400",
}
TRIAL_S = 420.0
"""A run that takes longer hangs; one without a disturbance takes 10 s on two idle cores."""
LEAVE_S = 30.0
"""Actors have this long to end after their learner has finished."""

FOREIGN = ("Traceback (most recent call last)", "Fatal Python error", "Segmentation fault")

FAILURES = (
    "corrupt checkpoint",
    "hang",
    "orphan",
    "lost row",
    "foreign traceback",
    "learner ended",
    "actor ended",
    "not equal",
    "counter unexplained",
    "error not taught",
    "not refused",
    "memory",
)
"""Kinds; every one must stay 0."""

DISTURBED = frozenset({"counters/received", "counters/dropped", "counters/rejected_peers"})
"""Metrics that count disturbances. What an actor had sent of an unfinished version when it was lost is
received, dropped and collected again, and a successor that knocks before its predecessor's connection is
seen to be gone is turned away: these rows are checked by closing the books instead."""
EXPLAINED = frozenset({"dropped_actor_lost", "dropped_superseded", "dropped_stale"})
"""Why decisions may be dropped: their actor was lost; or it plays a version again whose first, complete copy
is used before (superseded) or has led to the next version by then (stale). Any other reason must be one for
which the server refused a message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One run: what was done to it and what was wrong with it."""

    campaign: str
    number: int
    seed: int
    seconds: float
    attempts: dict[str, int]
    """Disturbances by what they struck."""
    failures: list[str]
    """Kind and detail, separated by `: `."""
    outcome: str
    """`identical`, `explained` (weights and metrics equal, received more by what was dropped) or `failed`."""
    numbers: dict[str, float] = field(default_factory=dict[str, float])
    """Measurements of the campaign."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Undisturbed:
    """What a run of the same settings leaves when nothing happens to it."""

    digests: dict[str, str]
    books: dict[str, Any]
    counters: dict[str, int]
    metrics: list[dict[str, float]]
    episodes: list[dict[str, Any]]

    @classmethod
    def of(cls, run: Run) -> Undisturbed:
        record = run.record()
        return cls(
            digests=record["digests_after"],
            books=record["books"],
            counters=record["counters"],
            metrics=_exact_metrics(run),
            episodes=read_json_lines(run.folder.episodes),
        )


class Tended:
    """A run whose processes are started again when they were ended; notes what ended by itself."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.processes: dict[str, forked.Forked] = {}
        self.ports: dict[str, int] = {}
        """By actor, where it finds its learner if not at the learner's own port."""
        self.sessions: set[int] = set()
        self.offsets: dict[str, int] = {}
        self.disturbed: set[str] = set()
        """Actors that were struck, with their learner or alone."""
        self.failures: list[str] = []
        self.attempts: Counter[str] = Counter()
        self.newest = 0
        """The highest step that was seen complete."""
        self.deaths = 0
        self.expects: Callable[[str, int | None, str], str | None] = lambda *_: "not expected"
        """Of a process that ended by itself: None when it may have (it is started again), else why not."""

    def start_all(self) -> None:
        for role in ROLES:
            self.start(role)

    def start(self, role: str) -> None:
        log = self.run.root / f"{role}.log"
        self.offsets[role] = log.stat().st_size if log.exists() else 0
        if role == LEARNER:
            resumes = bool(self._complete_steps())
            if not resumes:
                self._begin_again()
            process = self.run.learner(resume=resumes)
        else:
            rank = int(role[-1])
            process = self.run.actor(rank, pace_s=PACE_S, port=self.ports.get(role))
        self.processes[role] = process
        self.sessions.add(process.process.pid or 0)

    def log_of(self, role: str) -> str:
        """What the current incarnation said."""
        with (self.run.root / f"{role}.log").open("rb") as file:
            file.seek(self.offsets[role])
            return file.read().decode(errors="replace")

    def strike(self, role: str, number: int) -> bool:
        """Send a signal; False when the process had ended."""
        pid = self.processes[role].process.pid
        try:
            os.kill(pid or 0, number)
        except ProcessLookupError:
            return False
        self.disturbed |= {role} if role != LEARNER else set(ACTORS)
        return True

    def limit_files(self, role: str, size: int) -> None:
        """No file of a process may grow beyond `size` bytes from now on."""
        with contextlib.suppress(ProcessLookupError):
            pid = self.processes[role].process.pid or 0
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def kill(self, role: str) -> None:
        """SIGKILL a process, look at what it left and start its successor."""
        if self.processes[role].poll() is not None or not self.strike(role, signal.SIGKILL):
            return
        code = forked.exit_code(self.processes[role], 10.0)
        if code != -signal.SIGKILL:
            # It had ended in this very moment: `tend` judges how.
            return
        self.attempts[f"{role.partition('-')[0]}{self._where(role)}"] += 1
        self.look_at_checkpoints()
        self.start(role)

    def tend(self) -> bool:
        """Start again what ended by itself and may have; False when the run is over or beyond help."""
        for role, process in self.processes.items():
            code = process.poll()
            # An actor knows of the end before the learner has written its books; one that left for nothing
            # leaves a learner that waits, and that is a hang.
            if code is None or code == ExitCode.OK:
                continue
            complaint = self.expects(role, code, self.log_of(role))
            if complaint is not None:
                kind = "learner ended" if role == LEARNER else "actor ended"
                last = self.log_of(role).strip().splitlines()[-1:]
                self.failures.append(f"{kind}: {role} with {code}, {complaint}: {last}")
                return False
            self.disturbed |= {role} if role != LEARNER else set(ACTORS)
            self.look_at_checkpoints()
            self.start(role)
        return not self.is_finished

    @property
    def is_finished(self) -> bool:
        return LEARNER in self.processes and self.processes[LEARNER].poll() == ExitCode.OK

    def look_at_checkpoints(self) -> None:
        """Every step that has its final name is complete and none that was is gone."""
        folders = step_folders(self.checkpoints)
        for step, folder in folders.items():
            for problem in verify_manifest(folder):
                self.failures.append(f"corrupt checkpoint: {step}: {problem}")
        link = self.checkpoints / "last"
        if link.is_symlink() and not (link / MANIFEST_NAME).is_file():
            self.failures.append("corrupt checkpoint: last points at no complete step")
        found = max(folders, default=0)
        if found < self.newest:
            self.failures.append(f"corrupt checkpoint: step {self.newest} is gone")
        self.newest = max(self.newest, found)

    def end(self) -> None:
        """Let the actors go, stop what is left, and look for what nobody owns."""
        if self.is_finished:
            self._let_go()
        elif not self.failures:
            alive = [role for role, p in self.processes.items() if p.poll() is None]
            self.failures.append(f"hang: {', '.join(alive)} alive after {TRIAL_S:g} s")
        for role, process in self.processes.items():
            if process.poll() is None:
                self.strike(role, signal.SIGCONT)
                forked.wait(process, 0.0)
        left = _of_sessions(self.sessions)
        if left:
            self.failures.append(f"orphan: {len(left)}: {left[0]}")
        for log in sorted(self.run.root.glob("*.log")):
            text = log.read_text(errors="replace")
            self.failures += [f"foreign traceback: {log.name}" for mark in FOREIGN if mark in text]

    @property
    def checkpoints(self) -> Path:
        return self.run.folder.root / "checkpoints"

    def _complete_steps(self) -> list[int]:
        steps = step_folders(self.checkpoints)
        return [step for step, folder in steps.items() if (folder / MANIFEST_NAME).is_file()]

    def _begin_again(self) -> None:
        """Without a checkpoint there is nothing to resume: end the actors too, and put the folder aside."""
        if not self.run.folder.root.is_dir() or self.run.folder.root.is_mount():
            return
        actors = [role for role in ACTORS if role in self.processes]
        for role in actors:
            forked.wait(self.processes[role], 0.0)
        self.deaths += 1
        self.run.folder.root.rename(self.run.root / f"dead-{self.deaths}")
        for role in actors:
            self.start(role)

    def is_saving(self) -> bool:
        """Whether the learner's own half-written step is there, not one that a predecessor left."""
        return any(self.checkpoints.glob(f".tmp-*-{self.processes[LEARNER].process.pid}"))

    def _where(self, role: str) -> str:
        """What a killed process was doing, as its leftovers show."""
        if role != LEARNER:
            return ""
        if self.is_saving():
            return " while saving"
        return (
            "" if self.newest or step_folders(self.checkpoints) else " before its first checkpoint"
        )

    def _let_go(self) -> None:
        """Actors that know of the end leave by themselves; one that had no link then cannot know."""
        deadline = time.monotonic() + LEAVE_S
        for role in ACTORS:
            process = self.processes[role]
            code = forked.exit_code(process, max(0.0, deadline - time.monotonic()))
            if code is None and not _has_link(self.log_of(role)):
                process.terminate()
                code = forked.exit_code(process, LEAVE_S)
                if code == ExitCode.INTERRUPTED:
                    continue
            if code is None:
                self.failures.append(f"hang: {role} after its learner finished")
            elif code != ExitCode.OK:
                self.failures.append(f"actor ended: {role} with {code} after its learner finished")


def _has_link(log: str) -> bool:
    """Whether an actor's last word on its link is that it has one."""
    return log.rfind("linked to the learner") > log.rfind("lost the learner")


def _of_sessions(sessions: set[int]) -> list[str]:
    found: list[str] = []
    for pid in psutil.pids():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getsid(pid) in sessions and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(psutil.Process(pid).cmdline())[:200])
    return found


# -- the comparison --------------------------------------------------------------------------------


def outcome_of(tended: Tended, undisturbed: Undisturbed) -> str:
    """Outcome of a run that is over; what is wrong with it is added to its failures."""
    outcome = "failed"
    if not tended.failures:
        outcome, failures = _compare(tended, undisturbed)
        tended.failures += failures
    tended.look_at_checkpoints()
    return "failed" if tended.failures else outcome


def _compare(tended: Tended, undisturbed: Undisturbed) -> tuple[str, list[str]]:
    """Outcome of a run that finished, and failures: in what it differs from the undisturbed one."""
    run = tended.run
    try:
        record = run.record()
        failures = [*_lost_rows(tended, undisturbed), *_differences(run, record, undisturbed)]
        failures += _unexplained(record, undisturbed)
    except (PirlError, OSError, ValueError, KeyError) as error:
        return "failed", [f"lost row: the records cannot be read: {error!r:.300}"]
    is_identical = record["digests_after"]["counters"] == undisturbed.digests["counters"]
    return "failed" if failures else "identical" if is_identical else "explained", failures


def _lost_rows(tended: Tended, undisturbed: Undisturbed) -> Iterator[str]:
    run = tended.run
    steps = [row.step for row in read_metrics(run.folder.learner_metrics)]
    if steps != list(range(1, UPDATES + 1)):
        yield f"lost row: updates {steps}"
    if read_json_lines(run.folder.episodes) != undisturbed.episodes:
        yield "lost row: episodes differ"
    for role in ACTORS:
        # A row is written after its rollout was sent: a struck actor may have missed one or made two.
        is_struck = role in tended.disturbed
        path = run.folder.actor_metrics(int(role[-1]))
        rows = read_metrics(path, allow_torn_tail=is_struck) if path.exists() else []
        acted = [row.version for row in rows]
        if not set(acted) <= set(range(UPDATES)) or not (
            is_struck or acted == list(range(UPDATES))
        ):
            yield f"lost row: {role} acted with {acted}"


def _differences(run: Run, record: dict[str, Any], undisturbed: Undisturbed) -> Iterator[str]:
    after = record["digests_after"]
    for name, digest in undisturbed.digests.items():
        if name != "counters" and after[name] != digest:
            yield f"not equal: {name}"
    if record["books"] != undisturbed.books:
        yield f"not equal: books {record['books']}"
    rows = _exact_metrics(run)
    if rows != undisturbed.metrics:
        wrong = {
            name
            for row, wanted in zip(rows, undisturbed.metrics, strict=False)
            for name in wanted
            if row.get(name) != wanted[name]
        }
        yield f"not equal: metrics {sorted(wrong)} in {len(rows)} rows"
    if record["exit_reason"] != "finished" or not record["complete"]:
        yield f"not equal: the record says {record['exit_reason']}"
    for row in read_metrics(run.folder.learner_metrics):
        told = row.metrics
        if told["counters/received"] != told["counters/consumed"] + told["counters/dropped"]:
            yield f"counter unexplained: the books of update {row.step} do not close"


def _unexplained(record: dict[str, Any], undisturbed: Undisturbed) -> Iterator[str]:
    """Counters that differ although nothing was dropped, or by something else than what was."""
    counters, wanted = record["counters"], undisturbed.counters
    reasons = {name for name, n in counters.items() if name.startswith("dropped_") and n}
    if counters["consumed"] != wanted["consumed"] or counters["held"]:
        yield f"counter unexplained: {counters}"
    if counters["received"] != counters["consumed"] + counters["dropped"]:
        yield f"counter unexplained: received = consumed + dropped does not hold: {counters}"
    refused = {f"dropped_{n.removeprefix('messages_refused_')}" for n in record["server"]}
    if not reasons <= EXPLAINED | refused:
        yield f"counter unexplained: {sorted(reasons - EXPLAINED - refused)}"
    same = record["digests_after"]["counters"] == undisturbed.digests["counters"]
    if not counters["dropped"] and not same:
        yield f"counter unexplained: nothing was dropped and the counters differ: {counters}"


def _exact_metrics(run: Run) -> list[dict[str, float]]:
    return [
        {
            name: value
            for name, value in row.metrics.items()
            if METRICS[name].is_deterministic and name not in DISTURBED
        }
        for row in read_metrics(run.folder.learner_metrics)
    ]


# -- the disturbances ------------------------------------------------------------------------------

type Disturbance = Callable[[Tended, random.Random], Iterator[None]]
"""Does its work in steps; between two of them the run is tended."""


def pause(seconds: float) -> Iterator[None]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield


def kills(tended: Tended, rng: random.Random, *, count: int) -> Iterator[None]:
    """SIGKILL of one process after the other: some after another update was saved, so that the run gets on, a
    fourth of a learner's aimed at a save, the others whenever it is, start-up included."""
    while sum(tended.attempts.values()) < count:
        role = rng.choice((LEARNER, LEARNER, *ACTORS))
        if rng.random() < 0.4:
            yield from _until(lambda: len(step_folders(tended.checkpoints)) > tended.newest, 20.0)
        yield from pause(rng.uniform(0.02, 0.8))
        if role == LEARNER and rng.random() < 0.25:
            yield from _until(tended.is_saving, 3.0)
            time.sleep(rng.uniform(0.0, 0.03))
        tended.kill(role)
        if rng.random() < 0.25:
            # Several at once, before any of them has got far.
            tended.kill(rng.choice(ROLES))
        yield


def _until(condition: Callable[[], bool], timeout_s: float) -> Iterator[None]:
    end = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < end:
        yield


def stalls(tended: Tended, rng: random.Random, *, count: int) -> Iterator[None]:
    """SIGSTOP of one process for up to twice the time after which an actor is given up."""
    while sum(tended.attempts.values()) < count:
        yield from pause(rng.uniform(0.05, 2.0))
        role = rng.choice(ROLES)
        if tended.processes[role].poll() is not None or not tended.strike(role, signal.SIGSTOP):
            continue
        seconds = rng.choice((rng.uniform(0.1, 1.0), rng.uniform(1.0, 6.0)))
        try:
            yield from pause(seconds)
        finally:
            tended.strike(role, signal.SIGCONT)
        place = role.partition("-")[0]
        tended.attempts[f"{place}, {'over' if seconds > 3 else 'up to'} 3 s"] += 1


def proxied(
    tended: Tended, rng: random.Random, *, count: int, harm: Callable[[DamagingProxy], object]
) -> Iterator[None]:
    """Harm the connection of one actor after the other."""
    proxies = {role: DamagingProxy(tended.run.port, seed=rng.randrange(2**32)) for role in ACTORS}
    tended.ports |= {role: proxy.port for role, proxy in proxies.items()}
    try:
        yield
        while sum(tended.attempts.values()) < count:
            yield from pause(rng.uniform(0.05, 1.5))
            role = rng.choice(ACTORS)
            harm(proxies[role])
            tended.disturbed.add(role)
            tended.attempts["connection reset"] = sum(p.resets for p in proxies.values())
            tended.attempts["flipped bit"] = sum(p.flipped for p in proxies.values())
        while not tended.is_finished:
            yield
    finally:
        for proxy in proxies.values():
            proxy.close()


def resets(tended: Tended, rng: random.Random, *, count: int) -> Iterator[None]:
    """Connections that break without a farewell."""
    return proxied(tended, rng, count=count, harm=DamagingProxy.reset)


def corruption(tended: Tended, rng: random.Random, *, count: int) -> Iterator[None]:
    """Bits that flip on the way, in either direction: any call may end of it, never a process."""

    def harm(proxy: DamagingProxy) -> None:
        proxy.flips = rng.randrange(1, 6)

    return proxied(tended, rng, count=count, harm=harm)


DISK_BYTES = 128 * 2**20
"""Of the file system that is filled; a run leaves 15 MiB."""


def full_disk(tended: Tended, rng: random.Random, *, count: int) -> Iterator[None]:
    """Take the room of a small file system until somebody misses it, then give it back.

    Where this user may not mount one, the learner's files may not grow beyond a size: its save fails as well.
    """
    filler = tended.run.folder.root / ".filler"
    is_mounted = filler.parent.is_mount()
    what = "full disk" if is_mounted else "file size limit"
    missed: list[str] = []

    def may_have(role: str, code: int | None, log: str) -> str | None:
        if code != ExitCode.NOT_READY:
            return "not expected"
        told = [line for line in log.splitlines() if line.startswith("error: ")]
        is_named = " cannot write " in told[0] or " has no room for " in told[0] if told else False
        if not (len(told) == 1 and is_named and " free there" in told[0]):
            tended.failures.append(f"error not taught: {role}: {told}")
        missed.append(role)
        tended.attempts[f"{what} missed by the {role.partition('-')[0]}"] += 1
        filler.unlink(missing_ok=True)
        return None

    tended.expects = may_have
    while sum(tended.attempts.values()) < count and not tended.is_finished:
        # A run without a checkpoint would have to begin again, in a folder that is a mount.
        while not (tended.newest or tended.run.has_checkpoint(1)) and not tended.is_finished:
            yield
        yield from pause(rng.uniform(0.05, 2.0))
        missed.clear()
        if is_mounted:
            _fill(filler, leave=rng.choice((0, rng.randrange(2**12), rng.randrange(4 * 2**20))))
        else:
            tended.limit_files(LEARNER, rng.randrange(2**18, 2**20))
        end = time.monotonic() + 8.0
        while not missed and time.monotonic() < end and not tended.is_finished:
            yield
        filler.unlink(missing_ok=True)
        if not is_mounted and not missed:
            tended.limit_files(LEARNER, resource.RLIM_INFINITY)


def _fill(filler: Path, *, leave: int) -> None:
    """Make a file of all free bytes but `leave`."""
    with filler.open("wb") as file, contextlib.suppress(OSError):
        while True:
            found = os.statvfs(filler.parent)
            room = found.f_bavail * found.f_frsize - leave
            if room < found.f_frsize:
                return
            os.posix_fallocate(file.fileno(), file.tell(), room)
            file.seek(room, os.SEEK_CUR)


@contextmanager
def small_file_system(folder: Path) -> Iterator[None]:
    """`folder` is a file system of its own in memory while the block runs, if this user may mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "pirl-chaos", str(folder)]
    is_mounted = (
        shutil.which("mount")
        and not subprocess.run(mount, capture_output=True, check=False).returncode
    )
    try:
        yield
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)


# -- one trial -------------------------------------------------------------------------------------

DISTURBANCES: dict[str, Callable[..., Iterator[None]]] = {
    "kills": kills,
    "stalls": stalls,
    "resets": resets,
    "corruption": corruption,
    "full disk": full_disk,
}


def undisturbed(root: Path) -> Undisturbed:
    """What every trial is compared with."""
    with a_run(root, **SETTINGS) as run:
        run.expect_end(run.learner(), *(run.actor(rank, pace_s=PACE_S) for rank in range(2)))
        return Undisturbed.of(run)


def a_trial(
    campaign: str, number: int, *, seed: int, count: int, root: Path, wanted: Undisturbed
) -> Trial:
    """A run to its end under up to `count` disturbances; the folder of one without a failure is removed."""
    rng = random.Random(f"{seed}/{campaign}/{number}")
    folder = root / f"{campaign.replace(' ', '-')}-{number}"
    shutil.rmtree(folder, ignore_errors=True)
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        if campaign == "full disk":
            stack.enter_context(small_file_system(folder / "run"))
        folder.mkdir(exist_ok=True)
        run = stack.enter_context(a_run(folder, **SETTINGS))
        tended = Tended(run)
        _drive(tended, DISTURBANCES[campaign](tended, rng, count=count))
        outcome = outcome_of(tended, wanted)
        if tended.failures and campaign == "full disk":
            shutil.copytree(folder / "run", folder / "kept", symlinks=True)
    trial = Trial(
        campaign=campaign,
        number=number,
        seed=seed,
        seconds=round(time.monotonic() - started, 1),
        attempts=dict(tended.attempts),
        failures=tended.failures,
        outcome=outcome,
    )
    (folder / "trial.json").write_text(json.dumps(trial.failures, indent=1))
    if not trial.failures:
        shutil.rmtree(folder, ignore_errors=True)
    return trial


def _drive(tended: Tended, disturbance: Iterator[None]) -> None:
    deadline = time.monotonic() + TRIAL_S
    # Up to its first stop, so that proxies are there before the actors.
    next(disturbance, None)
    tended.start_all()
    while time.monotonic() < deadline and tended.tend():
        next(disturbance, None)
        time.sleep(0.005)
    with contextlib.suppress(GeneratorExit):
        disturbance.close()
    tended.end()
