"""The command lines of `pirl gate` and `pirl serve`."""

from __future__ import annotations

import argparse
from pathlib import Path

from pirl.config.recipe import VARIANTS

PROFILES = ("auto", "libero", "embedded")
LAUNCHERS = ("direct", "dvc", "prefect", "test")
"""A copy of `pirl.audit.bundle.LAUNCHERS`, whose module costs more than a help text may."""


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
    parser.add_argument(
        "--sign", type=Path, metavar="KEY", help="sign the bundle with this Ed25519 key, PEM"
    )
    parser.add_argument("--json", action="store_true", help="the result as JSON on stdout")
    return parser


def serve_parser() -> argparse.ArgumentParser:
    """`pirl serve`, which takes no arguments."""
    return argparse.ArgumentParser(
        prog="pirl serve",
        description="Serve the Prefect deployment of phase2-gate until interrupted; starts a Prefect"
        " server where none answers.",
    )
