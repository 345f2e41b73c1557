"""Who takes a command line: LeRobot's commands, or the two processes of the recipe."""

import json

import pytest
from config_builders import EMBEDDED, write

from pirl.config.arguments import learner_parser
from pirl.config.command_line import parse
from pirl.config.routing import is_pi_rl, lerobot_train_argv
from pirl.errors import ConfigError, ExitCode

SAC = {"policy": {"type": "gaussian_actor"}, "seed": 1}


def refusal(argv):
    with pytest.raises(ConfigError) as caught:
        lerobot_train_argv(argv)
    assert caught.value.exit_code is ExitCode.USAGE
    (error,) = caught.value.errors
    assert error.field == "recipe"
    return error


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--help"],
        ["--policy.type=act", "--dataset.repo_id=a/b"],
        ["--policy.path", "lerobot/xvla-base", "--steps", "3"],
        ["--config_path=lerobot/some_hub_config"],
        ["--config_path"],
        ["--recipe=null", "--steps=3"],
    ],
    ids=str,
)
def test_supervised_training_passes_through_unchanged(argv):
    assert lerobot_train_argv(argv) == argv


@pytest.mark.parametrize(
    "text", [json.dumps(SAC), "policy:\n  type: act\n", "{", "[1]", "", "a: b: c"]
)
def test_file_without_recipe_is_lerobots_business(text, tmp_path):
    argv = ["--config_path", str(write(tmp_path, text)), "--steps=3"]
    assert lerobot_train_argv(argv) == argv


@pytest.mark.parametrize("spelling", ["equals", "blank", "folder"])
def test_recipe_in_the_file_names_the_two_commands(spelling, tmp_path):
    file = write(tmp_path, EMBEDDED.read_text(), "train_config.json")
    argv = {
        "equals": [f"--config_path={file}"],
        "blank": ["--config_path", str(file)],
        "folder": [f"--config_path={tmp_path}"],
    }[spelling] + ["--seed=3"]
    fix = refusal(argv).fix
    for role in ("learner", "actor"):
        assert f"python -m pirl.{role} {argv[0]}" in fix
    assert fix.count("--seed=3") == 2


def test_recipe_in_a_yaml_file_is_seen(tmp_path):
    file = write(tmp_path, "recipe: pi-rl\n", "c.yaml")
    assert "pirl.learner" in refusal([f"--config_path={file}"]).fix


@pytest.mark.parametrize("argv", [["--recipe=pi-rl"], ["--recipe", "pi-rl"]], ids=str)
def test_recipe_as_an_override_is_seen(argv, tmp_path):
    file = write(tmp_path, SAC)
    assert "pirl.learner" in refusal([*argv, f"--config_path={file}"]).fix


@pytest.mark.parametrize("recipe", ["pi_rl", "PI-RL", "pirl", "π-rl"])
def test_near_miss_is_answered_with_the_spelling(recipe, tmp_path):
    assert "canonical spelling is pi-rl" in refusal([f"--recipe={recipe}"]).fix
    file = write(tmp_path, {"recipe": recipe})
    assert "canonical spelling is pi-rl" in refusal(["--config_path", str(file)]).fix


def test_an_override_takes_the_recipe_away():
    argv = [f"--config_path={EMBEDDED}", "--recipe=null"]
    assert lerobot_train_argv(argv) == argv


def test_learner_and_actor_load_what_has_the_recipe(tmp_path):
    assert is_pi_rl([f"--config_path={EMBEDDED}"])
    assert is_pi_rl(["--config_path", str(write(tmp_path, SAC)), "--recipe=pi-rl"])


@pytest.mark.parametrize("text", [json.dumps(SAC), "policy:\n  type: act\n"])
def test_learner_and_actor_leave_sac_to_lerobot(text, tmp_path):
    assert not is_pi_rl(["--config_path", str(write(tmp_path, text))])


@pytest.mark.parametrize("text", ["{", "", "[1]", '{"pirl": {"variant": "flow-sde"}}'])
def test_what_cannot_be_read_is_not_left_to_lerobot(text, tmp_path):
    assert is_pi_rl(["--config_path", str(write(tmp_path, text))])
    assert is_pi_rl(["--config_path", str(tmp_path / "absent.json")])
    assert is_pi_rl([])


def test_a_config_of_lerobot_train_is_not_left_to_lerobot_s_learner(tmp_path):
    tree = {"dataset": {"repo_id": "org/data"}, "policy": {"type": "xvla"}}
    given = ["--config_path", str(write(tmp_path, tree))]
    with pytest.raises(ConfigError, match="supervised training of policy xvla on org/data"):
        is_pi_rl(given)
    assert not is_pi_rl([*given, "--policy.type=gaussian_actor"])


def test_misspelt_recipe_never_becomes_a_sac_run(tmp_path):
    with pytest.raises(ConfigError, match="canonical spelling"):
        is_pi_rl(["--config_path", str(write(tmp_path, {**SAC, "recipe": "pi_rl"}))])


def test_config_path_is_taken_out_of_the_overrides():
    args, overrides = parse(
        learner_parser(), ["--seed=1", "--config_path", "f.json", "--pirl.gamma", "-2"]
    )
    assert args.config_path == "f.json"
    assert overrides == ["--seed=1", "--pirl.gamma", "-2"]
