"""`pirl validate` in this process: exit codes, JSON, and what goes where."""

import json
import subprocess
import sys
import tomllib

import huggingface_hub.constants
import pytest
from config_builders import EMBEDDED, ROOT, XVLA_LIBERO, raw, resolved, with_value, write

from pirl.config.rules import rule_outcomes, rules_of
from pirl.config.validate import main
from pirl.config.view import View
from pirl.errors import ConfigError, EnvironmentNotReadyError

DOORS = {"load", "snapshot", "train", "__main__"}


def test_valid_config_prints_its_summary(capsys):
    assert main(["--config_path", str(EMBEDDED), "--seed=7"]) == 0
    out = capsys.readouterr().out
    assert "flow-sde" in out
    assert "7" in out


def test_valid_config_as_json(capsys):
    assert main([f"--config_path={EMBEDDED}", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["valid"] is True
    assert answer["recipe"] == "pi-rl"
    assert len(answer["config_hash"]) == 64
    assert answer["summary"]
    named = [row["rule"] for row in answer["rules"]]
    assert named == [rule.__name__ for rule in rules_of(View(raw()))]
    assert all(row["held"] and row["meaning"] for row in answer["rules"])


def test_invalid_config_as_json_has_every_error(tmp_path, capsys):
    tree = with_value(with_value(raw(), "pirl.gamma", 7), "pirl.betas", {"a": float("inf")})
    tree["zz"] = 1
    assert main(["--config_path", str(write(tmp_path, tree)), "--json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert answer["valid"] is False
    assert {row["field"] for row in answer["errors"]} == {"pirl.gamma", "pirl.betas", "zz"} | {
        "pirl.betas.a"
    }
    assert all(row["expected"] and row["fix"] for row in answer["errors"])


def test_report_says_which_rule_does_not_hold():
    tree = resolved()
    tree["pirl"]["micro_batch"] = 5
    broken = [o for o in rule_outcomes(tree) if o.errors]
    assert [o.rule for o in broken] == ["check_batches"]
    assert broken[0].errors[0].field == "pirl.micro_batch"


def test_invalid_config_raises_without_json(tmp_path):
    with pytest.raises(ConfigError):
        main(["--config_path", str(write(tmp_path, "{"))])


def test_unreachable_hub_is_exit_code_3(monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert main(["--config_path", str(XVLA_LIBERO), "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["errors"][0]["field"] == "policy.path"
    with pytest.raises(EnvironmentNotReadyError):
        main(["--config_path", str(XVLA_LIBERO)])


def test_a_wrong_command_line_is_an_answer_too(capsys):
    assert main(["--json", "--confg_path=x"]) == 2
    (row,) = json.loads(capsys.readouterr().out)["errors"]
    assert row["field"] == "command line"
    assert "did you mean --config_path?" in row["expected"]


def test_a_config_of_supervised_training_is_told_what_it_is(tmp_path):
    tree = {"dataset": {"repo_id": "org/data"}, "policy": {"type": "act"}, "steps": 100}
    with pytest.raises(ConfigError) as caught:
        main(["--config_path", str(write(tmp_path, tree))])
    (error,) = caught.value.errors
    assert error.field == "recipe"
    assert "lerobot-train: supervised training of policy act on org/data" in error.expected
    assert "pirl train --config_path" in error.fix
    assert "pirl init --from CHECKPOINT" in error.fix


def test_config_package_imports_neither_torch_nor_lerobot():
    files = {file.stem for file in (ROOT / "pirl" / "config").glob("*.py")} - {"__init__"}
    light = sorted(f"pirl.config.{name}" for name in files - DOORS)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    linted = {
        module
        for contract in project["tool"]["importlinter"]["contracts"]
        if "lerobot" in contract.get("forbidden_modules", ())
        for module in contract["source_modules"]
    }
    assert set(light) <= linted
    program = (
        "import sys, importlib\n"
        f"for name in {light!r}: importlib.import_module(name)\n"
        "print([m for m in ('torch', 'lerobot', 'transformers', 'huggingface_hub') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=120,
    )
    assert done.stdout.strip() == "[]"
