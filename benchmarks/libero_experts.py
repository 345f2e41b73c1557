"""Count in how many initial states LIBERO's scripted experts succeed: a table, and records as JSON lines.

python -m benchmarks.libero_experts [libero_goal/7 ...] [--limit 200] [--out reports/libero_experts.jsonl]

Every one of a task's 50 initial states once, at full speed, without noise and pictures. The simulator's seed is
the state's number, so that a count can be had again. Tasks that `--out` holds already are not run again. Counts
say what the experts are good for; demonstrations come from training states alone (`pirl bench demos`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from lerobot.envs.configs import LiberoEnv

from pirl.envs.base import SlotPlan
from pirl.envs.libero import LiberoSlot
from pirl.envs.libero_config import libero_settings
from pirl.envs.libero_expert import EXPERTS
from pirl.envs.libero_kind import LIBERO_STATES


def count(task: str, *, limit: int) -> dict[str, Any]:
    """Every initial state of a task once."""
    suite, number = task.split("/")
    cfg = LiberoEnv(
        task=suite, task_ids=[int(number)], control_mode="absolute", episode_length=limit
    )
    (slot,) = libero_settings(cfg, image_keys=()).make_slots(1)
    assert isinstance(slot, LiberoSlot)
    lengths: dict[int, int] = {}
    for state in range(LIBERO_STATES):
        slot.reset(SlotPlan(task_id=0, init_state_id=state, seed=state))
        for step in range(1, limit + 1):
            result = slot.step_chunk(slot.expert_action()[None])
            if result.success:
                lengths[state] = step
                break
    slot.close()
    steps = list(lengths.values())
    return {
        "task": task,
        "episodes": LIBERO_STATES,
        "successes": len(lengths),
        "failed": [state for state in range(LIBERO_STATES) if state not in lengths],
        "limit": limit,
        "steps": [min(steps), int(statistics.median(steps)), max(steps)] if steps else None,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Counts, never a share alone."""
    lines = ["| task | successes | control steps: least, median, most |", "|---|---|---|"]
    for row in rows:
        steps = ", ".join(map(str, row["steps"] or []))
        lines.append(f"| {row['task']} | {row['successes']}/{row['episodes']} | {steps} |")
    return "\n".join([*lines, ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", default=list(EXPERTS), metavar="TASK")
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("reports/libero_experts.jsonl"))
    args = parser.parse_args()
    text = args.out.read_text() if args.out.exists() else ""
    known = {row["task"]: row for row in map(json.loads, text.splitlines())}
    with args.out.open("a") as file:
        for task in args.tasks:
            if task not in known:
                known[task] = count(task, limit=args.limit)
                file.write(json.dumps(known[task]) + "\n")
                file.flush()
    sys.stdout.write(table([known[task] for task in args.tasks]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
