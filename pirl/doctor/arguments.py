"""The command line of `pirl doctor`."""

from __future__ import annotations

from pathlib import Path

from pirl.config.command_line import Parser

PROFILE_CONFIG = Path("configs/train_config_pirl_xvla_libero.json")


def doctor_parser() -> Parser:
    """`pirl doctor`."""
    parser = Parser(
        "doctor",
        "Say what this machine can run, with one remedy per failure.",
        example="pirl doctor",
        codes="0 ready, 2 usage, 3 something required is missing",
    )
    parser.add_argument("--json", action="store_true", help="all findings as JSON on stdout")
    parser.add_argument(
        "--config_path",
        type=Path,
        default=PROFILE_CONFIG,
        metavar="FILE",
        help="train config whose X-VLA x LIBERO profile is looked at; default %(default)s",
    )
    return parser
