"""The command line of `pirl verify`."""

from __future__ import annotations

import argparse
from pathlib import Path


def verify_parser() -> argparse.ArgumentParser:
    """`pirl verify`."""
    parser = argparse.ArgumentParser(
        prog="pirl verify",
        description="Check an evidence bundle offline and recompute its verdict.",
        epilog="exit codes: 0 accepted, 1 not accepted, 2 usage",
    )
    parser.add_argument("bundle", type=Path, help="the bundle folder")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--expect-commit", help="git commit the run must be about")
    parser.add_argument("--expect-config-hash", help="config hash the run must be about")
    parser.add_argument("--expect-nonce", help="nonce noted at the start: finds a replay")
    parser.add_argument("--expect-digest", help="bundle digest noted at the end: finds a forgery")
    parser.add_argument(
        "--key", type=Path, metavar="PUB", help="Ed25519 key that must have signed it, PEM"
    )
    return parser
