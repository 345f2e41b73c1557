"""The command line of `pirl verify`."""

from __future__ import annotations

from pathlib import Path

from pirl.config.command_line import Parser


def verify_parser() -> Parser:
    """`pirl verify`."""
    parser = Parser(
        "verify",
        "Check an evidence bundle offline and recompute its verdict.",
        example="pirl verify runs/gate-20260101-120000",
        codes="0 accepted, 1 not accepted, 2 usage",
    )
    parser.add_argument("bundle", type=Path, help="the bundle folder")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--expect-commit", metavar="C", help="git commit the run must be about")
    parser.add_argument("--expect-config-hash", metavar="H", help="config hash of the run")
    parser.add_argument(
        "--expect-nonce", metavar="N", help="nonce noted at the start: finds a replay"
    )
    parser.add_argument(
        "--expect-digest", metavar="D", help="bundle digest noted at the end: finds a forgery"
    )
    parser.add_argument(
        "--key", type=Path, metavar="PUB", help="Ed25519 key that must have signed it, PEM"
    )
    return parser
