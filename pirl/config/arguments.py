"""The command line of `pirl validate`."""

from __future__ import annotations

import argparse


def validate_parser() -> argparse.ArgumentParser:
    """`pirl validate`; anything else on its command line is a dotted override."""
    parser = argparse.ArgumentParser(
        prog="pirl validate",
        description="Check a config without starting anything. Prints the preflight summary of a valid"
        " config, or every error of an invalid one with field, value, expected and fix.",
        epilog="Further --section.field=value arguments override the config. exit codes: 0 valid,"
        " 2 invalid, 3 policy.path names a hub repository that cannot be reached",
    )
    parser.add_argument("--config_path", metavar="FILE", help="JSON file or checkpoint folder")
    parser.add_argument("--json", action="store_true", help="the answer as JSON on stdout")
    return parser
