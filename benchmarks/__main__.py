"""All benchmarks by name; each is also a script of its own with its own options.

python -m benchmarks                              what there is
python -m benchmarks env_steps --chunks 10 30     one of them
python -m benchmarks --smoke [NAME ...]           each for a moment: does it still run?
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
SMOKE_DEADLINE_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A script of this folder."""

    what: str
    smoke: tuple[str, ...] = ()
    """Options with which it ends soon; the figures are then worth nothing."""


BENCHMARKS = {
    "env_steps": Benchmark(
        what="control steps per second of LIBERO and MetaWorld: stock LeRobot against pirl",
        smoke=("--envs", "metaworld", "--chunks", "10", "--steps", "10", "--rounds", "1"),
    ),
    "pipeline": Benchmark(
        what="control steps per second of a rollout: one group of environments against two",
        smoke=("--decisions", "8", "--rounds", "1", "--runtime.envs_per_actor=4"),
    ),
    "libero_exact": Benchmark(
        what="every LIBERO task against stock, bit for bit, and the seconds of both",
        smoke=("--suites", "libero_object", "--tasks", "1", "--steps", "10"),
    ),
    "libero_experts": Benchmark(
        what="in how many initial states LIBERO's scripted experts succeed",
        smoke=("libero_object/1", "--limit", "3", "--out", os.devnull),
    ),
    "wire": Benchmark(
        what="bytes and seconds per version and transition: LeRobot's wire against pirl's",
        smoke=("--scale", "0.0005", "--repeats", "1"),
    ),
    "start_up": Benchmark(
        what="CPU seconds until a command is of use, against its imports", smoke=("--smoke",)
    ),
    "crash_save": Benchmark(
        what="processes killed while they save: LeRobot's checkpoints against pirl's",
        smoke=("--kills", "2", "--every-call", "0", "--stock-kills", "1"),
    ),
    "memory": Benchmark(
        what="memory of a learner: predicted before a run against what the process took",
        smoke=("--sizes", "small", "--rows", "8"),
    ),
    "second_policy": Benchmark(
        what="whether piRL improves a policy and a task that are plug-ins: SmolVLA on pointreach",
        smoke=("--smoke",),
    ),
    "chaos": Benchmark(what="whole runs under kills, stalls, damage and lies", smoke=("--short",)),
}


def run(name: str, options: tuple[str, ...], *, deadline_s: float | None = None) -> int:
    """Exit code of a benchmark in a process of its own."""
    argv = [sys.executable, "-m", f"benchmarks.{name}", *options]
    return subprocess.run(argv, cwd=HERE.parent, timeout=deadline_s).returncode


def main() -> int:
    """Exit code 1 when a benchmark failed, 2 for a name that is none."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--smoke", action="store_true", help="run each for a moment")
    parser.add_argument("names", nargs="*", metavar="NAME", help="; ".join(BENCHMARKS))
    args, _ = parser.parse_known_args()
    unknown = [name for name in args.names if name not in BENCHMARKS]
    if unknown and (args.smoke or args.names[0] in unknown):
        parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    if args.smoke:
        failed = []
        for name in args.names or BENCHMARKS:
            started = time.monotonic()
            code = run(name, BENCHMARKS[name].smoke, deadline_s=SMOKE_DEADLINE_S)
            print(f"{name}: exit code {code}, {time.monotonic() - started:.0f} s", file=sys.stderr)
            failed += [name] if code else []
        return 1 if failed else 0
    if not args.names:
        for name, benchmark in BENCHMARKS.items():
            print(f"{name:<16}{benchmark.what}")
        return 0
    name = args.names[0]
    return run(name, tuple(sys.argv[sys.argv.index(name) + 1 :]))


if __name__ == "__main__":
    raise SystemExit(main())
