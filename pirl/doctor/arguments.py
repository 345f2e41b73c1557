"""The command lines of `pirl doctor` and `pirl init`."""

from __future__ import annotations

from pathlib import Path

from pirl import doors
from pirl.config.command_line import Parser, word_of

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


def _environment(text: str) -> str:
    """An argparse type: an installed environment. A help text looks for no distributions."""
    return (
        text if doors.is_installed(doors.ENVS, text) else word_of(doors.installed(doors.ENVS))(text)
    )


def init_parser() -> Parser:
    """`pirl init`."""
    parser = Parser(
        "init",
        "Write a commented train config for a checkpoint of yours, with sizes that fit this machine. It passes"
        " `pirl validate`; an existing file is never overwritten.",
        example="pirl init --from configs/policies/button_press_topdown --env pirl_metaworld"
        " --task button-press-topdown-v3",
        codes="0 written, 2 checkpoint, environment and task do not fit, 3 the hub cannot be reached",
    )
    add = parser.add_argument
    add(
        "--from",
        dest="checkpoint",
        required=True,
        metavar="CHECKPOINT",
        help="a run of lerobot-train, one of its checkpoints, a pretrained_model folder or a hub repository",
    )
    add(
        "--env",
        type=_environment,
        required=True,
        metavar="TYPE",
        help="libero, pirl_metaworld, or what an installed distribution offers",
    )
    add(
        "--task",
        required=True,
        metavar="TASK",
        help="a suite of LIBERO, or a task of another environment",
    )
    add("--gpu", action="store_true", help="learner and actor on a CUDA device")
    add("--out", type=Path, metavar="FILE", help="default: pirl_TASK.yaml")
    return parser
