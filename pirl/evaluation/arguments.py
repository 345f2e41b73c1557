"""The command line of `pirl eval`."""

from __future__ import annotations

import argparse

SEED = 1000


def eval_parser() -> argparse.ArgumentParser:
    """`pirl eval`."""
    parser = argparse.ArgumentParser(
        prog="pirl eval",
        allow_abbrev=False,
        description="Evaluate a saved policy on fixed episodes; counts with Wilson intervals, from records.",
        epilog="Dotted overrides of the config are accepted: --env.episode_length=800. "
        "exit codes: 0 done, 1 --verify found a difference or the simulator failed, 2 usage, "
        "3 environment not ready, 4 interrupted, 5 --compare met different episodes",
    )
    add = parser.add_argument
    add("--policy_path", "--policy.path", help="pretrained_model folder or hub id")
    add(
        "--config_path",
        help="environment and split (default: train_config.json beside the weights)",
    )
    add("--suites", help="LIBERO suites, comma-separated, in place of env.task")
    add("--episodes-per-task", type=_count, default=10)
    add("--seed", type=_count, default=SEED, help="start noise and simulator seeds")
    add(
        "--split",
        default="heldout",
        choices=("heldout", "train", "all"),
        help="initial states (default: heldout; all is peer-comparable and overlaps training)",
    )
    add("--out", help="result folder, new or empty (default: outputs/eval/DATE/TIME)")
    add("--videos", type=_count, default=0, metavar="N", help="videos per task, plus one failure")
    add("--num-envs", type=_count, help="simulators side by side; changes no result")
    add("--num-workers", type=_count, help="their processes; changes no result")
    add("--device", help="default: runtime.actor_device")
    add("--json", action="store_true", help="the answer as JSON on stdout")
    add("--verify", metavar="FOLDER", help="compute every figure of a result folder again")
    add("--compare", nargs=2, metavar=("A", "B"), help="exact paired test of two result folders")
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError(text)
    return value
