"""Environment steps per second with two actors against one, in one run, as JSON.

    python benchmarks/actors.py --updates 4 --out actors.json

Both runs are `pirl launch` on the embedded config with the same decisions per update; each actor has the same
slots and one simulator worker. The first update, which pays for the start of the simulators, is left out. On a
machine with fewer cores than processes the ratio shows how far that machine is shared, not what actors give.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from pirl.evidence.metric_log import read_metrics
from pirl.runtime.launch import launch
from pirl.runtime.layout import RunFolder

CONFIG = "configs/train_config_pirl_embedded.json"


def steps_per_second(actors: int, *, updates: int, decisions: int, root: Path) -> float:
    """Environment steps per second of waiting, from the learner's rows after the first."""
    folder = RunFolder(root / f"{actors}-actors")
    result = launch(
        CONFIG,
        actors=actors,
        overrides=[
            f"--output_dir={folder.root}",
            "--runtime.port=0",
            "--runtime.checkpoint_every_updates=0",
            f"--runtime.total_updates={updates}",
            f"--runtime.rollout_chunks={decisions}",
        ],
        log_dir=root / "logs",
        quiet=True,
        deadline_s=1200.0,
    )
    if result.exit_code != 0:
        raise SystemExit(f"the run with {actors} actors ended with code {int(result.exit_code)}")
    rows = [row.metrics for row in read_metrics(folder.learner_metrics)][1:]
    return sum(r["rollout/env_steps"] for r in rows) / sum(r["time/wait_s"] for r in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=4)
    parser.add_argument("--decisions", type=int, default=64, help="per update, over all actors")
    parser.add_argument("--out", type=Path, help="JSON file; default: standard output")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        one, two = (
            steps_per_second(n, updates=args.updates, decisions=args.decisions, root=Path(folder))
            for n in (1, 2)
        )
    result = {
        "benchmark": "actors",
        "cores": len(os.sched_getaffinity(0)),
        "env_steps_per_s": {"one_actor": one, "two_actors": two},
        "ratio_two_over_one": two / one,
    }
    text = json.dumps(result, indent=1) + "\n"
    if args.out:
        args.out.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
