"""The command lines of `pirl gate`, `doctor` and `serve`."""

from __future__ import annotations

import argparse
from pathlib import Path

from pirl.config.recipe import VARIANTS

PROFILES = ("auto", "libero", "embedded")
LAUNCHERS = ("direct", "dvc", "prefect", "test")
"""A copy of `pirl.evidence.bundle.LAUNCHERS`, whose module costs more than a help text may."""
PROFILE_CONFIG = Path("configs/train_config_pirl_xvla_libero.json")


def gate_parser() -> argparse.ArgumentParser:
    """`pirl gate`; the variant is None when `params.yaml` is to say it."""
    parser = argparse.ArgumentParser(
        prog="pirl gate",
        description="Run the phase-2 gate and write its evidence bundle.",
        epilog="Further --section.field=value arguments override the gate's config; they are part of its "
        "hash and of the evidence.",
    )
    parser.add_argument("--profile", choices=PROFILES, default="auto")
    parser.add_argument("--variant", choices=VARIANTS, help="default: gate.variant of params.yaml")
    parser.add_argument("--out", type=Path, help="bundle folder; default runs/gate-<time>")
    parser.add_argument("--launched-by", choices=LAUNCHERS, default="direct")
    parser.add_argument("--no-mlflow", action="store_true", help="keep no MLflow record")
    parser.add_argument("--json", action="store_true", help="the result as JSON on stdout")
    return parser


def doctor_parser() -> argparse.ArgumentParser:
    """`pirl doctor`."""
    parser = argparse.ArgumentParser(
        prog="pirl doctor",
        description="Say what this machine can run, with one remedy per failure.",
        epilog="exit codes: 0 ready, 2 usage, 3 something required is missing",
    )
    parser.add_argument("--json", action="store_true", help="all findings as JSON on stdout")
    parser.add_argument(
        "--config_path",
        type=Path,
        default=PROFILE_CONFIG,
        help="train config whose X-VLA x LIBERO profile is looked at; default %(default)s",
    )
    return parser


def serve_parser() -> argparse.ArgumentParser:
    """`pirl serve`, which takes no arguments."""
    return argparse.ArgumentParser(
        prog="pirl serve",
        description="Serve the Prefect deployment of phase2-gate until interrupted; starts a Prefect"
        " server where none answers.",
    )
