"""Whole runs under kills, stalls, broken and damaging connections, full disks and hostile peers.

    python benchmarks/chaos.py --kills 500 --messages 200000 --seed 0 --out chaos.jsonl --write docs/chaos.md
    python benchmarks/chaos.py --short

Every trial is a whole run, a learner and two actors in processes of their own with a toy simulator, that is
disturbed at seeded moments, mended as a user would (the learner resumed, an actor replaced) and goes to its end.
It is then compared with an undisturbed run. `--out` keeps one line per trial, and the same command goes on where
it was cut off. The exit code is 1 when anything failed; the folder of a failed trial stays in `--keep`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from chaos_messages import CAMPAIGN as MESSAGES
from chaos_messages import a_trial as a_hostile_trial
from chaos_runs import DISTURBANCES, FAILURES, Trial, Undisturbed, a_trial, undisturbed

REPO = Path(__file__).resolve().parents[1]
PER_TRIAL = {
    "kills": 14,
    "stalls": 5,
    "resets": 8,
    "corruption": 12,
    "full disk": 3,
    MESSAGES: 75_000,
}
"""Disturbances of one run at most; one that ends earlier has fewer."""
SHORT = {"kills": 6, "stalls": 2, "resets": 4, "corruption": 6, "full disk": 1, MESSAGES: 1500}
WORKERS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Disturbances wanted, by campaign."""

    wanted: dict[str, int]
    seed: int
    per_trial: dict[str, int]


def next_trials(
    plan: Plan, done: Sequence[Trial], started: set[tuple[str, int]]
) -> Iterator[tuple[str, int]]:
    """The next trial of each campaign that still needs one, the one that is furthest behind first."""
    parts = {
        name: _missing(plan, done, started, name) / max(wanted, 1)
        for name, wanted in plan.wanted.items()
    }
    for name in sorted(parts, key=lambda name: -parts[name]):
        if parts[name] > 0:
            yield name, next(n for n in itertools.count() if (name, n) not in started)


def _missing(plan: Plan, done: Sequence[Trial], started: set[tuple[str, int]], name: str) -> int:
    """Disturbances that are neither done nor under way."""
    ended = [trial for trial in done if trial.campaign == name]
    under_way = len([1 for campaign, _ in started if campaign == name]) - len(ended)
    found = sum(sum(trial.attempts.values()) for trial in ended)
    return plan.wanted[name] - found - under_way * plan.per_trial[name]


def carry_out(plan: Plan, out: Path, keep: Path) -> list[Trial]:
    """Do what is missing in `out`, two trials at a time; every trial is written when it ends."""
    done = read(out)
    started = {(trial.campaign, trial.number) for trial in done}
    if not any(True for _ in next_trials(plan, done, started)):
        return done
    wanted = undisturbed(keep / "undisturbed")
    with ThreadPoolExecutor(WORKERS) as pool:
        running: set[Any] = set()
        while True:
            for name, number in list(next_trials(plan, done, started)):
                if len(running) < WORKERS:
                    count = min(plan.per_trial[name], _missing(plan, done, started, name))
                    started.add((name, number))
                    running.add(pool.submit(_one, plan, name, number, count, keep, wanted))
            if not running:
                return done
            future = next(as_completed(running))
            running.remove(future)
            done.append(future.result())
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(done[-1])) + "\n")
            say(done[-1])


def _one(plan: Plan, name: str, number: int, count: int, keep: Path, wanted: Undisturbed) -> Trial:
    if name == MESSAGES:
        return a_hostile_trial(number, seed=plan.seed, count=count, root=keep, wanted=wanted)
    return a_trial(name, number, seed=plan.seed, count=count, root=keep, wanted=wanted)


def read(out: Path) -> list[Trial]:
    if not out.exists():
        return []
    return [Trial(**json.loads(line)) for line in out.read_text(encoding="utf-8").splitlines()]


def say(trial: Trial) -> None:
    what = ", ".join(f"{n} {name}" for name, n in sorted(trial.attempts.items()) if n)
    print(f"{trial.campaign} {trial.number}: {trial.outcome}, {trial.seconds:g} s ({what})")
    for failure in trial.failures:
        print(f"  {failure}")
    sys.stdout.flush()


# -- the table -------------------------------------------------------------------------------------


def table(trials: Sequence[Trial]) -> str:
    """Markdown: attempts, runs and failures by campaign, then what was struck, then memory."""
    lines = [
        "| campaign | disturbances | runs | identical | explained | failed | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    by_name = {
        name: [t for t in trials if t.campaign == name] for name in (*DISTURBANCES, MESSAGES)
    }
    for name, found in by_name.items():
        outcomes = Counter(trial.outcome for trial in found)
        total = sum(sum(trial.attempts.values()) for trial in found)
        counts = (outcomes[key] for key in ("identical", "explained", "failed"))
        seconds = sum(trial.seconds for trial in found)
        cells = (name, f"{total:,}", len(found), *counts, f"{seconds:,.0f}")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    kinds = Counter(f.partition(":")[0] for trial in trials for f in trial.failures)
    lines += ["", "| failure | times |", "|---|---|"]
    lines += [f"| {kind} | {kinds[kind]} |" for kind in FAILURES]
    lines += ["", "| campaign | what was struck | times |", "|---|---|---|"]
    for name, found in by_name.items():
        struck = Counter[str]()
        for trial in found:
            struck.update({n: k for n, k in trial.attempts.items() if k})
        lines += [f"| {name} | {place} | {n:,} |" for place, n in sorted(struck.items())]
    lines += ["", *_memory(by_name[MESSAGES])]
    return "\n".join(lines) + "\n"


def _memory(trials: Sequence[Trial]) -> list[str]:
    lines = [
        "| run with hostile messages | messages | seconds | learner MiB, warm / largest | actor MiB, "
        "warm / largest |",
        "|---|---|---|---|---|",
    ]
    for trial in sorted(trials, key=lambda t: t.number):
        n = trial.numbers
        rss = [
            " / ".join(f"{n[f'{role} MiB {when}']:g}" for when in ("before", "largest"))
            for role in ("learner", "actor-0")
        ]
        count = sum(trial.attempts.values())
        lines.append(f"| {trial.number} | {count:,} | {n['attack_s']:,.0f} | {rss[0]} | {rss[1]} |")
    return lines


def page(trials: Sequence[Trial], command: str) -> str:
    """`docs/chaos.md`."""
    head = ["git", "rev-parse", "--short=12", "HEAD"]
    commit = subprocess.run(head, check=True, capture_output=True, text=True).stdout.strip()
    return PAGE.format(command=command, cores=os.cpu_count(), commit=commit, table=table(trials))


PAGE = """# Chaos: what was done to whole runs, and what failed

```
{command}
```

At commit {commit}, on a machine with {cores} cores that had other work. Written by the command; what each word
means:

- A run is a learner and two actors in processes of their own, `sync` mode, six updates, a checkpoint after each,
  with a toy simulator inside the actor; everything else is what a run has. A killed learner is resumed from its
  newest checkpoint (one that has none yet begins again), a killed actor is replaced.
- *identical*: weights of every part, optimiser, random state, every deterministic metric of every update, every
  episode record and all counters are those of an undisturbed run.
- *explained*: the same, but the counters say that decisions were received and dropped: what a lost actor had sent
  of an unfinished version (`dropped_actor_lost`), a version played again whose first copy was used
  (`dropped_superseded`, `dropped_stale`), or a refused message by its reason. `consumed` and the books (updates,
  optimiser steps, env steps, episodes, successes, versions) are equal, and received = consumed + dropped holds at
  the end and in every row. Left out of the comparison of rows for that reason: `counters/received`,
  `counters/dropped` (and bytes received), and `counters/rejected_peers` (a replacement that knocks before its
  predecessor is seen to be gone is counted there). Host measurements (`time/`, `link/`, `system/`) are never
  compared.
- A failure is any of the kinds in the second table. Logs of every process are searched for tracebacks.
- Hostile messages: from a peer with a contact of its own on rank 1, a fifth under the honest actor's name. Memory
  is resident memory seen from outside, after a warm-up; 5 % more is a failure. A *pickled* interaction is what a
  stock LeRobot actor sends: it is counted and never loaded, every other message is refused.

{table}
Memory of the learner: nothing is kept of a refused message. What the table shows is memory that the allocator and
gRPC have taken once; `tests/integration/test_hostile_peers.py` counts the Python objects, which do not grow.
"""


def _path(text: str) -> Path:
    # Before the working directory becomes the repository, where the runs find their config.
    return Path(text).absolute()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--others", type=int, default=50, help="of stalls, resets, ... each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="one run of every kind")
    parser.add_argument("--out", type=_path, help="one line of JSON per trial; goes on from there")
    parser.add_argument("--write", type=_path, help="write the table, with its explanation, here")
    parser.add_argument("--keep", type=_path, help="folder for the runs; failed ones stay")
    args = parser.parse_args()
    os.chdir(REPO)
    wanted = dict.fromkeys(DISTURBANCES, args.others) | {
        "kills": args.kills,
        MESSAGES: args.messages,
    }
    plan = Plan(
        wanted=SHORT if args.short else wanted,
        seed=args.seed,
        per_trial=SHORT if args.short else PER_TRIAL,
    )
    keep = args.keep or Path(tempfile.mkdtemp(prefix="pirl-chaos-"))
    keep.mkdir(parents=True, exist_ok=True)
    trials = carry_out(plan, args.out or keep / "trials.jsonl", keep)
    print(table(trials))
    if args.write is not None:
        options = f"--kills {args.kills} --messages {args.messages} --others {args.others}"
        text = page(trials, f"python benchmarks/chaos.py {options} --seed {args.seed}")
        args.write.write_text(text, encoding="utf-8")
    failed = any(trial.failures for trial in trials)
    if failed:
        print(f"failed runs are in {keep}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
