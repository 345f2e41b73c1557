"""The command lines of what takes a config, and of what shows a run of one."""

from __future__ import annotations

from pathlib import Path

from pirl.config.command_line import Parser, at_least

EXAMPLE = "configs/train_config_pirl_embedded.json"
"""A config that runs on any machine."""


def validate_parser() -> Parser:
    """`pirl validate`."""
    parser = _takes_config(
        "validate",
        "Check a config without starting anything. Prints the preflight summary of a valid config, or every"
        " error of an invalid one with field, value, expected and fix.",
        example=f"pirl validate --config_path {EXAMPLE} --pirl.gamma=0.95",
        codes="0 valid, 2 invalid, 3 policy.path names a hub repository that cannot be reached",
    )
    parser.add_argument("--json", action="store_true", help="the answer as JSON on stdout")
    return parser


def config_parser() -> Parser:
    """`pirl config`."""
    parser = Parser(
        "config",
        "Explain the fields of a config: name, type, default, bounds and meaning. `pirl config --help FIELD`"
        " explains one field, or all of a section.",
        example="pirl config --help pirl.gamma",
    )
    parser.add_argument(
        "fields", nargs="*", metavar="FIELD", help="for instance pirl or pirl.gamma"
    )
    parser.add_argument("--list", action="store_true", help="a line for each field")
    parser.add_argument("--json", action="store_true", help="the fields as JSON on stdout")
    parser.add_argument(
        "--schema",
        action="store_true",
        help="the config as JSON Schema (draft 2020-12) on stdout: types, bounds, defaults, units",
    )
    return parser


def launch_parser() -> Parser:
    """`pirl launch`."""
    parser = _takes_config(
        "launch",
        "Run a learner and its actors on this machine, with prefixed logs and one exit code.",
        example=f"pirl launch --config_path {EXAMPLE} --actors 2",
    )
    add = parser.add_argument
    add("--actors", type=at_least(1), metavar="N", help="default: runtime.actors of the config")
    add(
        "--learner-processes",
        type=at_least(1),
        metavar="W",
        help="default: parallelism.dp_replicate of the config",
    )
    add("--log-dir", type=Path, metavar="DIR", help="one log file per process instead of stderr")
    add("--quiet", action="store_true", help="no logs and no progress on stderr")
    add("--json", action="store_true", help="the process table on stdout")
    return parser


def learner_parser() -> Parser:
    """`pirl learner` and `python -m pirl.learner`."""
    return _takes_config(
        "learner",
        "Run the learner: take a rollout, update, publish, checkpoint. A config without `recipe` goes to"
        " LeRobot's own learner, unchanged.",
        example=f"pirl learner --config_path {EXAMPLE}",
    )


def actor_parser() -> Parser:
    """`pirl actor` and `python -m pirl.actor`."""
    parser = _takes_config(
        "actor",
        "Run one actor: wait for a version, collect its rollout, send it. A config without `recipe` goes to"
        " LeRobot's own actor, unchanged.",
        example=f"pirl actor --config_path {EXAMPLE} --rank 0",
    )
    add = parser.add_argument
    add("--rank", type=at_least(0), default=0, metavar="R", help="0 .. runtime.actors - 1")
    add("--record-video", action="store_true", help="keep the first episode as actor-R/frames.npz")
    return parser


def check_policy_parser() -> Parser:
    """`pirl check-policy`."""
    parser = _takes_config(
        "check-policy",
        "Run every clause of the flow-policy contract on the policy of a config, and compare its sampler with"
        " LeRobot's own. No simulator is started.",
        example=f"pirl check-policy --config_path {EXAMPLE}",
        codes="0 every clause is kept, 1 one is broken or could not run",
    )
    parser.add_argument("--json", action="store_true", help="the clauses as JSON on stdout")
    return parser


def train_parser() -> Parser:
    """`pirl train`, which passes its command line on."""
    return Parser(
        "train",
        "Run lerobot-train with the same arguments, unless the config asks for the pi-rl recipe: then name"
        " the two commands to run. `lerobot-train --help` lists the options.",
        example="pirl train --policy.type=xvla --dataset.repo_id=ORG/DATA",
    )


def _reads_run(parser: Parser, *, name: str) -> Parser:
    """With the arguments of a command that says something of a run folder."""
    parser.add_argument("run", type=Path, help="the run folder")
    parser.add_argument("--json", action="store_true", help=f"the {name} as JSON on stdout")
    return parser


def status_parser() -> Parser:
    """`pirl status`."""
    parser = Parser(
        "status",
        "Say how far a run is: updates with the time left, successes, actors, checkpoint, memory. Reads the run"
        " folder and nothing else.",
        example="pirl status outputs/train/2026-01-01/12-00-00_pirl",
        codes="0 it runs or has finished, 1 it ended otherwise, 2 no run folder",
    )
    return _reads_run(parser, name="status")


def profile_parser() -> Parser:
    """`pirl profile`."""
    parser = Parser(
        "profile",
        "Say where the seconds and bytes of a run went, by stage, in the learner and in every actor. Reads the run"
        " folder and nothing else; a run that is still going on is shown up to its last update.",
        example="pirl profile outputs/train/2026-01-01/12-00-00_pirl",
        codes="0 done, 2 no run folder",
    )
    return _reads_run(parser, name="profile")


def watch_parser() -> Parser:
    """`pirl watch`."""
    parser = Parser(
        "watch",
        "Show the status of a run until it ends: one page on a terminal, elsewhere a line for each update.",
        example="pirl watch outputs/train/2026-01-01/12-00-00_pirl",
        codes="0 it has finished, 1 it ended otherwise, 2 no run folder",
    )
    parser.add_argument("run", type=Path, help="the run folder")
    parser.add_argument(
        "--every", type=at_least(1), default=2, metavar="S", help="seconds between two looks"
    )
    return parser


def _takes_config(command: str, what: str, *, example: str, codes: str = "") -> Parser:
    parser = Parser(command, what, example=example, codes=codes, takes_fields=True)
    parser.add_argument(
        "--config_path",
        required=True,
        metavar="FILE",
        help="JSON or YAML file, or checkpoint folder",
    )
    return parser
