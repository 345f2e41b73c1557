"""The command lines of `pirl demo` and `pirl bench`."""

from __future__ import annotations

from pathlib import Path

from pirl.config.command_line import Parser, at_least, word_of
from pirl.config.recipe import VARIANTS

PARAMS = Path("learning/settings.yaml")
CONTROLS = ("shuffled", "zero-rate", "dropout")
"""Names of `pirl.learning.settings.CONTROLS`, whose module costs more than a help text may."""


def bench_parser() -> Parser:
    """`pirl bench` without a command of its own."""
    return Parser(
        "bench",
        "Prove that piRL improves a policy, with records that can be judged again. `pirl bench learn` makes a"
        " run, `judge` judges one again, `study` makes the runs of a study, `demos` scripted demonstrations,"
        " `warm-start` a policy to start from.",
        example="pirl bench learn --help",
    )


def demo_parser() -> Parser:
    """`pirl demo`, which is `pirl bench learn` by a name that is found."""
    return learn_parser("demo")


def learn_parser(name: str = "bench learn") -> Parser:
    """`pirl bench learn`."""
    parser = Parser(
        name,
        "Warm start, piRL through learner and actors, held-out episodes, verdict.",
        example=f"pirl {name} --variant flow-sde --seed 211",
        codes="0 every bound holds, 1 one does not, 2 usage",
        takes_fields=True,
    )
    add = parser.add_argument
    add("--variant", type=word_of(VARIANTS), choices=VARIANTS)
    add("--seed", type=at_least(0), metavar="N")
    add("--control", type=word_of(CONTROLS), choices=CONTROLS, help="a run that must not learn")
    add("--actors", type=at_least(1), metavar="N")
    add("--episodes", type=at_least(1), metavar="N", help="held-out episodes per task and policy")
    add("--start-from", metavar="DIR", help="a pretrained_model/ folder instead of a warm start")
    add("--config", "--config_path", metavar="FILE", help="another train config")
    add("--params", type=Path, default=PARAMS, metavar="FILE", help="the file with `learn`")
    add("--out", type=Path, metavar="DIR", help="default runs/learn-<time>")
    add("--videos", type=at_least(0), default=2, metavar="N", help="filmed before and after")
    add("--no-mlflow", action="store_true", help="keep no MLflow record")
    add("--json", action="store_true", help="the record as JSON on stdout")
    return parser


def judge_parser() -> Parser:
    """`pirl bench judge`."""
    parser = Parser(
        "bench judge",
        "Judge a finished run again from its episode records.",
        example="pirl bench judge runs/learn-20260101-120000",
        codes="0 passed, 1 `learn.json` says otherwise or the run did not pass, 2 usage",
    )
    parser.add_argument("folder", type=Path, help="the --out of `pirl bench learn`")
    return parser


def warm_start_parser() -> Parser:
    """`pirl bench warm-start`."""
    parser = Parser(
        "bench warm-start",
        "Make a policy to start from: scripted demonstrations, then LeRobot's own supervised loss.",
        example="pirl bench warm-start --seed 211 --out runs/start",
        takes_fields=True,
    )
    add = parser.add_argument
    add("--variant", type=word_of(VARIANTS), choices=VARIANTS)
    add("--seed", type=at_least(0), metavar="N")
    add("--config", "--config_path", metavar="FILE", help="another train config")
    add("--params", type=Path, default=PARAMS, metavar="FILE", help="the file with `learn`")
    add("--out", type=Path, metavar="DIR", required=True, help="a new folder for the policy")
    return parser


def demos_parser() -> Parser:
    """`pirl bench demos`."""
    parser = Parser(
        "bench demos",
        "Write demonstrations of scripted experts as a LeRobotDataset, which lerobot-train reads.",
        example="pirl bench demos --task button-press-topdown-v3 --episodes 60 --out runs/demos",
        takes_fields=True,
    )
    add = parser.add_argument
    add("--task", metavar="NAME", help="libero_goal:7, or a MetaWorld task; default: the config's")
    add("--episodes", type=at_least(1), metavar="N", help="per task; default: demos_per_task")
    add("--variant", type=word_of(VARIANTS), choices=VARIANTS)
    add("--seed", type=at_least(0), metavar="N")
    add("--config", "--config_path", metavar="FILE", help="another train config")
    add("--params", type=Path, default=PARAMS, metavar="FILE", help="the file with `learn`")
    add("--out", type=Path, metavar="DIR", required=True, help="a new folder for the data set")
    return parser


def study_parser() -> Parser:
    """`pirl bench study`."""
    parser = Parser(
        "bench study",
        "Run a study of a settings file and print its table; each row says for itself whether it passed.",
        example="pirl bench study imprecise",
    )
    add = parser.add_argument
    add("name", help="a key of `studies` in the file of --params")
    add("--params", type=Path, default=PARAMS, metavar="FILE", help="`learn` and `studies`")
    add("--out", type=Path, metavar="DIR", help="default runs/study-NAME; finished rows are kept")
    add("--json", action="store_true", help="the records as JSON on stdout")
    add("--no-mlflow", action="store_true", help="leave no runs in the tracker")
    return parser
