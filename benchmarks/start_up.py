"""CPU seconds from the start of a command until it is of use, against what it must import at least.

    python benchmarks/start_up.py --repeats 3 --json

Help texts, `validate` and `doctor` have a limit in seconds. Learner and actor have a limit as a ratio:
their start until they say "ready" (the learner published its first version, the actor built its simulator),
over importing torch, LeRobot's X-VLA and, for the actor, the simulator, measured in the same run. All
figures are user plus system time of the process and its children, each the least of `--repeats`: other load
only adds. Exit code 1 when a limit does not hold. `--smoke` leaves out what takes longer than a second.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from pirl.runtime.launch import free_port
from pirl.runtime.procs import ProcessGroup, spawn
from pirl.usage import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "configs/train_config_pirl_embedded.json"
XVLA = "import torch; import lerobot.policies.xvla.modeling_xvla"
SIMULATOR = "import mujoco; import metaworld"
HELP_LIMIT_S, VALIDATE_LIMIT_S, DOCTOR_LIMIT_S, READY_LIMIT = 0.3, 3.0, 6.0, 1.3
_DEADLINE_S = 600.0
_POLL_S = 0.05


@dataclass(frozen=True)
class Row:
    """One figure and its limit."""

    what: str
    cpu_s: float
    at_least_s: float | None
    """CPU seconds of the imports that are needed anyway; None where the limit is in seconds."""
    limit: float

    @property
    def measured(self) -> float:
        """What the limit is about: a ratio where there is something to compare with."""
        return self.cpu_s if self.at_least_s is None else self.cpu_s / self.at_least_s

    @property
    def holds(self) -> bool:
        return self.measured <= self.limit


def python(*arguments: str, answers: tuple[int, ...] = (0,)) -> float:
    """CPU seconds of a Python process and its children, to its end."""
    with subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    ) as process:
        said = process.stderr.read() if process.stderr is not None else b""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in answers:
        sys.exit(f"{' '.join(arguments)} ended with {process.returncode}:\n{said.decode()}")
    return usage.ru_utime + usage.ru_stime


def ready(folder: Path) -> tuple[float, float]:
    """CPU seconds until learner and actor of one run are ready, children included."""
    port = free_port("127.0.0.1")
    tail = ["--config_path", CONFIG, "--runtime.actors=1", f"--runtime.port={port}"]
    tail.append(f"--output_dir={folder / 'run'}")
    with ProcessGroup() as group:
        found: dict[str, float] = {}
        children = {}
        for role in ("learner", "actor"):
            argv = [sys.executable, "-m", f"pirl.{role}", *tail]
            log = folder / f"{role}.log"
            children[role] = group.add(spawn(role, argv, cwd=ROOT, log_path=log))
        deadline = time.monotonic() + _DEADLINE_S
        while len(found) < len(children):
            for role, child in children.items():
                text = (folder / f"{role}.log").read_text(encoding="utf-8")
                if role not in found and ": ready: " in text:
                    found[role] = used_by(child.pid)
                elif role not in found and child.poll() is not None:
                    sys.exit(f"the {role} ended with {child.poll()}:\n{text}")
            if time.monotonic() > deadline:
                sys.exit(f"only {list(found)} of learner and actor became ready")
            time.sleep(_POLL_S)
    return found["learner"], found["actor"]


def used_by(pid: int) -> float:
    """CPU seconds of a running process, its living children and those it has waited for."""
    process = psutil.Process(pid)
    total = 0.0
    for part in (process, *process.children(recursive=True)):
        spent = part.cpu_times()
        total += spent.user + spent.system + spent.children_user + spent.children_system
    return total


def least(measure: Callable[[], float], repeats: int) -> float:
    return min(measure() for _ in range(repeats))


def light_rows(repeats: int) -> list[Row]:
    """Help, version and validate."""
    rows: list[Row] = []
    for command in COMMANDS:
        words = command.split()
        spent = least(lambda w=words: python("-m", "pirl.cli", *w, "--help"), repeats)
        rows.append(Row(f"pirl {command} --help", spent, None, HELP_LIMIT_S))
    for role in ("learner", "actor"):
        spent = least(lambda r=role: python("-m", f"pirl.{r}", "--help"), repeats)
        rows.append(Row(f"python -m pirl.{role} --help", spent, None, HELP_LIMIT_S))
    spent = least(lambda: python("-m", "pirl.cli", "--version"), repeats)
    rows.append(Row("pirl --version", spent, None, HELP_LIMIT_S))
    spent = least(lambda: python("-m", "pirl.cli", "validate", "--config_path", CONFIG), repeats)
    return [*rows, Row("pirl validate", spent, None, VALIDATE_LIMIT_S)]


def heavy_rows(repeats: int) -> list[Row]:
    """Doctor, learner and actor."""
    # The first import fills the page cache and may compile.
    python("-c", XVLA)
    # A machine that lacks something gets an answer too, with exit code 3.
    doctor = least(lambda: python("-m", "pirl.cli", "doctor", answers=(0, 3)), repeats)
    policy, simulator, learner, actor = [], [], [], []
    for _ in range(repeats):
        # In turns, so that whatever else the machine does meets both sides.
        policy.append(python("-c", XVLA))
        simulator.append(python("-c", SIMULATOR))
        with tempfile.TemporaryDirectory() as folder:
            both = ready(Path(folder))
        learner.append(both[0])
        actor.append(both[1])
    imports = min(policy)
    return [
        Row("pirl doctor", doctor, None, DOCTOR_LIMIT_S),
        Row("learner ready", min(learner), imports, READY_LIMIT),
        Row("actor ready", min(actor), imports + min(simulator), READY_LIMIT),
    ]


def table(rows: list[Row]) -> str:
    """The rows for a person."""
    lines = [f"{'':<30} {'CPU s':>7} {'imports':>8} {'measured':>9} {'limit':>6}"]
    for row in rows:
        least = "" if row.at_least_s is None else f"{row.at_least_s:.2f}"
        mark = "" if row.holds else "  TOO SLOW"
        lines.append(
            f"{row.what:<30} {row.cpu_s:>7.2f} {least:>8} {row.measured:>9.2f} {row.limit:>6}{mark}"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="help texts and validate only")
    parser.add_argument("--json", action="store_true", help="the rows as JSON on stdout")
    args = parser.parse_args()
    rows = light_rows(args.repeats)
    if not args.smoke:
        rows += heavy_rows(args.repeats)
    if args.json:
        shown = [asdict(r) | {"measured": r.measured, "holds": r.holds} for r in rows]
        print(json.dumps(shown, indent=1))
    else:
        print(table(rows))
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
