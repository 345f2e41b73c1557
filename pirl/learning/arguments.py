"""The command lines of `pirl demo` and `pirl bench`."""

from __future__ import annotations

import argparse
from pathlib import Path

from pirl.config.recipe import VARIANTS

PARAMS = Path("params.yaml")
CONTROLS = ("shuffled", "zero-rate", "dropout")
"""Names of `pirl.learning.settings.CONTROLS`, whose module costs more than a help text may."""


def bench_parser() -> argparse.ArgumentParser:
    """`pirl bench` without a command of its own."""
    return argparse.ArgumentParser(
        prog="pirl bench",
        usage="pirl bench learn | judge | study | warm-start [options]",
        description="Prove that piRL improves a policy, with records that can be judged again.",
        epilog="`pirl bench learn --help` explains one.",
    )


def learn_parser() -> argparse.ArgumentParser:
    """`pirl bench learn`, and `pirl demo`, which is the same."""
    parser = argparse.ArgumentParser(
        prog="pirl bench learn",
        description="Warm start, piRL through learner and actors, held-out episodes, verdict.",
        epilog="Further --section.field=value arguments override the train config.",
    )
    parser.add_argument("--variant", choices=VARIANTS)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--control", choices=CONTROLS, help="a run that must not learn")
    parser.add_argument("--actors", type=int)
    parser.add_argument("--episodes", type=int, help="held-out episodes per task and policy")
    parser.add_argument("--start-from", help="a pretrained_model/ folder instead of a warm start")
    parser.add_argument("--config", help="another train config")
    parser.add_argument("--params", type=Path, default=PARAMS, help="the file with `learn`")
    parser.add_argument("--out", type=Path, help="default runs/learn-<time>")
    parser.add_argument("--videos", type=int, default=2, help="episodes filmed before and after")
    parser.add_argument("--no-mlflow", action="store_true")
    parser.add_argument("--json", action="store_true", help="the record as JSON on stdout")
    return parser


def judge_parser() -> argparse.ArgumentParser:
    """`pirl bench judge`."""
    parser = argparse.ArgumentParser(
        prog="pirl bench judge",
        description="Judge a finished run again from its episode records; exit code 1 when `learn.json`"
        " says otherwise.",
    )
    parser.add_argument("folder", type=Path)
    return parser


def warm_start_parser() -> argparse.ArgumentParser:
    """`pirl bench warm-start`."""
    parser = argparse.ArgumentParser(
        prog="pirl bench warm-start",
        description="Make a policy to start from: scripted demonstrations, then LeRobot's own supervised loss.",
        epilog="Further --section.field=value arguments override the train config.",
    )
    parser.add_argument("--variant", choices=VARIANTS)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--config", help="another train config")
    parser.add_argument("--params", type=Path, default=PARAMS, help="the file with `learn`")
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the policy")
    return parser


def study_parser() -> argparse.ArgumentParser:
    """`pirl bench study`."""
    parser = argparse.ArgumentParser(
        prog="pirl bench study",
        description="Run a study of `params.yaml` and print its table; each row says for itself whether"
        " it passed.",
    )
    parser.add_argument("name", help="a key of `studies` in params.yaml")
    parser.add_argument("--out", type=Path, help="default runs/study-NAME; finished rows are kept")
    parser.add_argument("--json", action="store_true", help="the records as JSON on stdout")
    parser.add_argument("--no-mlflow", action="store_true", help="leave no runs in the tracker")
    return parser
