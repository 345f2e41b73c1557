"""The command lines of `pirl gate` and `pirl serve`."""

from __future__ import annotations

from pathlib import Path

from pirl.config.command_line import Parser, at_least, word_of
from pirl.config.recipe import VARIANTS

PROFILES = ("auto", "libero", "embedded", "own")
LAUNCHERS = ("direct", "dvc", "prefect", "test")
"""A copy of `pirl.audit.bundle.LAUNCHERS`, whose module costs more than a help text may."""


def gate_parser() -> Parser:
    """`pirl gate`; the variant is None when `params.yaml` is to say it."""
    parser = Parser(
        "gate",
        "Run the phase-2 gate and write its evidence bundle. Fields that are given here are part of the"
        " config's hash and of the evidence. --config runs it on a policy and an environment of one's own.",
        example="pirl gate --profile embedded --variant flow-sde",
        codes="0 passed, 1 failed, 2 usage, 3 environment not ready, 4 interrupted",
        takes_fields=True,
    )
    add = parser.add_argument
    add(
        "--profile",
        type=word_of(PROFILES),
        choices=PROFILES,
        help="default: auto, or own with --config",
    )
    add(
        "--config",
        "--config_path",
        type=Path,
        metavar="FILE",
        help="the train config of --profile own; nothing of params.yaml is put over it",
    )
    add(
        "--variant",
        type=word_of(VARIANTS),
        choices=VARIANTS,
        help="default: gate.variant of params.yaml, or that of --config",
    )
    add(
        "--learner-processes",
        type=at_least(1),
        metavar="W",
        help="of smoke-run and resume-roundtrip; the refusals are one process's",
    )
    add("--out", type=Path, metavar="DIR", help="bundle folder; default runs/gate-<time>")
    add("--launched-by", type=word_of(LAUNCHERS), choices=LAUNCHERS, default="direct")
    add("--no-mlflow", action="store_true", help="keep no MLflow record")
    add("--sign", type=Path, metavar="KEY", help="sign the bundle with this Ed25519 key, PEM")
    add("--json", action="store_true", help="the result as JSON on stdout")
    return parser


def serve_parser() -> Parser:
    """`pirl serve`, which takes no arguments."""
    return Parser(
        "serve",
        "Serve the Prefect deployment of phase2-gate until interrupted; starts a Prefect server where none"
        " answers.",
        example="pirl serve",
    )
