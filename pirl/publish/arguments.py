"""The command line of `pirl push`."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from pirl.config.command_line import Parser

_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def push_parser() -> Parser:
    """`pirl push`."""
    parser = Parser(
        "push",
        "Upload the policy of a run to the hub: its last checkpoint, the config of the run and a model card made"
        " from the run's records. Results and bundles that are given are verified first.",
        example="pirl push RUN --repo-id ORG/NAME --after results/after --dry-run",
        codes="0 uploaded or written, 1 a record does not hold, 2 usage, 3 the hub cannot be reached or refuses,"
        " 5 the results are of other weights",
    )
    add = parser.add_argument
    add("run", type=Path, help="the run folder")
    add("--repo-id", type=_repo, required=True, metavar="ORG/NAME", help="made where there is none")
    add("--private", action="store_true", help="make a new repository private")
    add(
        "--before",
        type=Path,
        metavar="DIR",
        help="`pirl eval` of the policy that the run started from",
    )
    add("--after", type=Path, metavar="DIR", help="`pirl eval` of the policy that is pushed")
    add(
        "--bundle",
        type=Path,
        metavar="DIR",
        help="evidence bundle of `pirl gate` to name in the card",
    )
    add(
        "--dry-run",
        action="store_true",
        help="write the folder and print what is in it; no network",
    )
    add(
        "--out",
        type=Path,
        metavar="DIR",
        help="where --dry-run writes, new or empty; default RUN/hub",
    )
    return parser


def _repo(text: str) -> str:
    if _REPO.fullmatch(text):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is no repository ORG/NAME")
