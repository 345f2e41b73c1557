"""Wrong command lines, each with its one-line answer; what a help text says; what completes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from pirl.cli import main
from pirl.completion import script
from pirl.config.command_line import parse
from pirl.config.fields import all_fields
from pirl.config.recipe import FlowNoiseConfig, FlowSDEConfig, LastStepStd, PiRLConfig
from pirl.evaluation.arguments import eval_parser
from pirl.usage import COMMANDS, resolve

F = str(Path(__file__).parents[2] / "configs/train_config_pirl_embedded.json")

TYPOS = {
    # Commands.
    "gat": "pirl: unknown command 'gat'; did you mean pirl gate?",
    "evla --policy_path x": "pirl: unknown command 'evla'; did you mean pirl eval?",
    "lanuch": "pirl: unknown command 'lanuch'; did you mean pirl launch?",
    "Doctor": "pirl: unknown command 'Doctor'; did you mean pirl doctor?",
    "run": "pirl: unknown command 'run'; did you mean pirl launch?",
    "evaluate": "pirl: unknown command 'evaluate'; did you mean pirl eval?",
    "check": "pirl: unknown command 'check'; did you mean pirl validate?",
    "help": "pirl: unknown command 'help'; did you mean pirl --help?",
    "statsu r": "pirl: unknown command 'statsu'; did you mean pirl status?",
    "watch r --every 0": "pirl watch: --every: '0' is no whole number >= 1",
    "int --from x": "pirl: unknown command 'int'; did you mean pirl init?",
    "xyzzy": "pirl: unknown command 'xyzzy'; `pirl --help` lists them",
    "--config_path x launch": "pirl: --config_path comes before any command; `pirl --help` lists them",
    "bench": "pirl bench: a command is missing: learn, judge, study, demos, warm-start",
    "bench lern": "pirl bench: unknown command 'lern': learn, judge, study, demos, warm-start;"
    " did you mean learn?",
    # Options.
    "gate --varient flow-sde": "pirl gate: unknown option --varient; did you mean --variant?",
    "gate --profiles=embedded": "pirl gate: unknown option --profiles; did you mean --profile?",
    "gate --no_mlflow": "pirl gate: unknown option --no_mlflow; did you mean --no-mlflow?",
    "gate --output runs/x": "pirl gate: unknown option --output; did you mean --out?",
    "eval --episodes 3": "pirl eval: unknown option --episodes; did you mean --episodes-per-task?",
    "eval --n_episodes=3": "pirl eval: unknown option --n_episodes; did you mean --episodes-per-task?",
    "eval --evl.n_episodes=3": "pirl eval: unknown option --evl.n_episodes; did you mean --episodes-per-task?",
    "eval --policy-path x": "pirl eval: unknown option --policy-path; did you mean --policy_path?",
    "eval --num_envs 2": "pirl eval: unknown option --num_envs; did you mean --num-envs?",
    "eval --video 2": "pirl eval: unknown option --video; did you mean --videos?",
    "launch --config x": "pirl launch: unknown option --config; did you mean --config_path?",
    "launch --config-path x": "pirl launch: unknown option --config-path; did you mean --config_path?",
    f"launch --config_path {F} --actor 2": "pirl launch: unknown option --actor; did you mean --actors?",
    f"launch --config_path {F} --gamma=0.9": "pirl launch: unknown option --gamma; did you mean --pirl.gamma?",
    f"launch --config_path {F} --pril.gamma=0.9": (
        "pirl launch: unknown option --pril.gamma; did you mean --pirl.gamma?"
    ),
    f"learner --config_path {F} --total_updates 3": (
        "pirl learner: unknown option --total_updates; did you mean --runtime.total_updates?"
    ),
    f"actor --config_path {F} --rnk 1": "pirl actor: unknown option --rnk; did you mean --rank?",
    "validate --jsn": "pirl validate: unknown option --jsn; did you mean --json?",
    "verify bundle --expect-comit c": (
        "pirl verify: unknown option --expect-comit; did you mean --expect-commit?"
    ),
    "doctor --gpu": "pirl doctor: unknown option --gpu; `pirl doctor --help` lists its options",
    "bench learn --sed 3": "pirl bench learn: unknown option --sed; did you mean --seed?",
    "demo --vidoes 1": "pirl demo: unknown option --vidoes; did you mean --videos?",
    "push runs/x --repo-id policy": "pirl push: --repo-id: 'policy' is no repository ORG/NAME",
    "push runs/x --repoid me/x": "pirl push: unknown option --repoid; did you mean --repo-id?",
    "push runs/x": "pirl push: --repo-id is missing, as in: pirl push RUN --repo-id ORG/NAME"
    " --after results/after --dry-run",
    "init --form x": "pirl init: unknown option --form; did you mean --from?",
    "init --from x --env metaworld --task y": (
        "pirl init: --env: 'metaworld' is none of libero, pirl_metaworld; did you mean pirl_metaworld?"
    ),
    "init --from x": "pirl init: --env, --task is missing, as in: pirl init --from"
    " configs/policies/button_press_topdown --env pirl_metaworld --task button-press-topdown-v3",
    "config --lst": "pirl config: unknown option --lst; did you mean --list?",
    # Values.
    f"launch --config_path {F} --actors 0": "pirl launch: --actors: '0' is no whole number >= 1",
    f"launch --config_path {F} --actors two": "pirl launch: --actors: 'two' is no whole number >= 1",
    f"actor --config_path {F} --rank=-1": "pirl actor: --rank: '-1' is no whole number >= 0",
    "config --pirl.gama=2": "pirl config: unknown option --pirl.gama; `pirl config --help` lists its options",
    "eval --videos 1.5": "pirl eval: --videos: '1.5' is no whole number >= 0",
    "eval --split held-out": (
        "pirl eval: --split: 'held-out' is none of heldout, train, all; did you mean heldout?"
    ),
    "gate --variant flow_sde": (
        "pirl gate: --variant: 'flow_sde' is none of flow-sde, flow-noise; did you mean flow-sde?"
    ),
    "gate --profile embeded": (
        "pirl gate: --profile: 'embeded' is none of auto, libero, embedded, own; did you mean embedded?"
    ),
    "eval --compare a": "pirl eval: --compare: expected 2 arguments",
    "launch --config_path": "pirl launch: --config_path: expected one argument",
    # What is missing, or one too many.
    "launch": "pirl launch: --config_path is missing, as in: pirl launch --config_path"
    " configs/train_config_pirl_embedded.json --actors 2",
    "learner --seed=1": "pirl learner: --config_path is missing, as in: pirl learner --config_path"
    " configs/train_config_pirl_embedded.json",
    "verify": "pirl verify: bundle is missing, as in: pirl verify runs/gate-20260101-120000",
    "validate c.json": "pirl validate: 'c.json' has no option before it; did you mean --config_path c.json?",
    "launch here": "pirl launch: unexpected argument 'here'; `pirl launch --help` shows what it takes",
    "serve now": "pirl serve: unexpected argument 'now'; `pirl serve --help` shows what it takes",
    # Fields and shells.
    "config": "pirl config: give a field, --list or --schema",
    "config --help pirl.gama": "pirl config: no field 'pirl.gama'; did you mean pirl.gamma?",
    "config pirl --schema": "pirl config: --schema is of the whole config; leave pirl out",
    "config gamma": "pirl config: no field 'gamma'; did you mean pirl.gamma?",
    "config qwerty": "pirl config: no field 'qwerty'; `pirl config --list` names them all",
    "completion fish": "pirl completion: shell: 'fish' is none of bash, zsh",
}


@pytest.mark.parametrize("line", TYPOS)
def test_a_wrong_command_line_has_a_one_line_answer(line, capsys):
    assert main(shlex.split(line)) == 2
    said = capsys.readouterr()
    assert said.err == f"error: {TYPOS[line]}\n"
    assert said.out == ""


def test_no_command_shows_what_there_is(capsys):
    assert main([]) == 2
    said = capsys.readouterr().err
    assert all(f"\n  {name} " in said for name in COMMANDS)


@pytest.mark.parametrize("line", ["-V", "--version", "gate --version", "bench learn --version"])
def test_the_version_is_told_wherever_it_is_asked_for(line, capsys):
    assert main(line.split()) == 0
    assert capsys.readouterr().out.startswith("pirl 0.")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_it_does_with_one_example_that_is_right(name, capsys):
    assert main([*name.split(), "--help"]) == 0
    said = capsys.readouterr().out
    parser = resolve(COMMANDS[name].parser)()
    assert f"example:\n  {parser.example}\n" in said
    assert ("pirl config --list" in said) == parser.takes_fields
    words = shlex.split(parser.example)
    if words[0] == "pirl" and "--help" not in words and name not in ("train", "config"):
        parse(parser, words[1 + len(name.split()) :])


def test_names_that_lerobot_eval_has_mean_the_same():
    theirs = ["--policy.path=p", "--eval.n_episodes=3", "--eval.batch_size=2", "--output_dir=o"]
    ours = ["--policy_path=p", "--episodes-per-task=3", "--num-envs=2", "--out=o"]
    args, overrides = parse(eval_parser(), [*theirs, "--env.task=libero_10"])
    assert args == parse(eval_parser(), ours)[0]
    assert overrides == ["--env.task=libero_10"]


def test_a_value_that_looks_like_an_option_is_one_of_a_field():
    line = ["--pirl.x", "-1", "--seed", "3", "--videos=2"]
    args, overrides = parse(eval_parser(), line)
    assert args.videos == 2
    assert overrides == ["--pirl.x", "-1"]
    assert args.seed == 3


def test_every_field_of_pirl_says_what_it_means():
    ours = {"pirl": PiRLConfig, "pirl.flow_sde": FlowSDEConfig, "pirl.flow_noise": FlowNoiseConfig}
    names = {field.name for field in all_fields()}
    for section, cls in {**ours, "pirl.last_step_std": LastStepStd}.items():
        plain = {f"{section}.{name}" for name in vars(cls)["__dataclass_fields__"]}
        assert plain - {*ours, "pirl.last_step_std"} <= names
    silent = [
        f.name for f in all_fields() if f.name.startswith(("pirl.", "runtime.")) and not f.meaning
    ]
    assert silent == []


def test_a_field_is_told_with_type_default_bound_and_meaning(capsys):
    assert main(["config", "--help", "pirl.flow_noise.noise_std_range"]) == 0
    said = capsys.readouterr().out
    for part in (
        "a list of 2: a number",
        "[0.08, 0.16]",
        "0 < value <= 10 (flow units)",
        "Lower and upper",
    ):
        assert part in said


def test_a_field_is_explained_as_a_command_line_has_it(capsys):
    assert main(["config", "--pirl.gamma=0.9"]) == 0
    assert capsys.readouterr().out.startswith("pirl.gamma\n")


def test_a_field_that_the_recipe_ignores_says_so(capsys):
    assert main(["config", "steps", "--json"]) == 0
    assert "does not read it; remove it: set runtime.total_updates" in capsys.readouterr().out


def test_the_list_has_a_line_for_each_field(capsys):
    assert main(["config", "runtime", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(vars(resolve("pirl.config:RuntimeConfig"))["__dataclass_fields__"])
    assert lines[0].startswith("runtime.host ")
    assert main(["config", "--list"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) < 300


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_offers_every_command_and_option(shell):
    text = script(shell)
    for name, command in COMMANDS.items():
        assert re.search(rf'^ +"{name}"\) .*found="', text, re.MULTILINE)
        for action in resolve(command.parser)().declared:
            assert all(option in text for option in action.option_strings if option[:2] == "--")
    assert "--pirl.gamma" in text
    assert "@" not in text.replace("[@]", "")
