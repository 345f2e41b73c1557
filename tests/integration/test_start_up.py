"""What a process loads before it has anything to do: help texts nothing, checks no torch and no LeRobot.

Modules and not seconds: those are in `benchmarks/start_up.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pirl.audit.bundle import LAUNCHERS
from pirl.gate import arguments as gate_arguments
from pirl.gate import profiles
from pirl.learning import arguments as learning_arguments
from pirl.learning import settings
from pirl.usage import COMMANDS, resolve

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
COSTLY = ("torch", "transformers", "lerobot.configs", "lerobot.policies", "libero", "mlflow")
NOT_EVEN = (*COSTLY, "numpy", "draccus", "huggingface_hub", "pirl.envs", "pirl.checkpoint")
"""A help text has no use for these either."""
EMBEDDED = "configs/train_config_pirl_embedded.json"


def loaded_by(program: str, *argv: str) -> tuple[set[str], str]:
    """Modules that a fresh process ends with, and what it printed."""
    ending = "\nimport json, sys\nsys.stderr.write(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program + ending, *argv],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=120,
    )
    return set(json.loads(done.stderr.splitlines()[-1])), done.stdout


def test_every_command_says_what_it_takes_and_loads_nothing_for_it():
    commands = list(COMMANDS)
    program = "import sys\nfrom pirl.cli import main\n" + "\n".join(
        f"print(main({[*command.split(), question]!r}))"
        for command in commands
        for question in ("--help", "-h", "--version")
    )
    modules, said = loaded_by(program)
    assert modules.isdisjoint(NOT_EVEN)
    assert said.count("usage: pirl ") == 2 * len(commands)
    assert said.count("pirl 0.") == len(commands)
    assert said.count("\n0\n") == 3 * len(commands)


@pytest.mark.parametrize("role", ["learner", "actor"])
@pytest.mark.parametrize("question", ["--help", "--version"])
def test_the_two_roles_answer_without_a_config(role, question):
    program = f"import sys\nfrom pirl.{role} import main\nprint(main(sys.argv[1:]))"
    modules, said = loaded_by(program, question)
    assert modules.isdisjoint(NOT_EVEN)
    assert said.startswith("usage: pirl" if question == "--help" else "pirl 0.")


def test_version_of_the_program():
    modules, said = loaded_by("from pirl.cli import main\nprint(main(['--version']))")
    assert modules.isdisjoint(NOT_EVEN)
    assert said == "pirl 0.1.0\n0\n"


def test_a_config_is_validated_without_torch_or_lerobot():
    program = "import sys\nfrom pirl.cli import main\nprint(main(sys.argv[1:]))"
    modules, said = loaded_by(program, "validate", "--config_path", EMBEDDED)
    assert modules.isdisjoint(COSTLY)
    assert "config hash" in said


def test_the_schema_of_a_config_needs_neither_torch_nor_lerobot():
    program = "import sys\nfrom pirl.cli import main\nprint(main(sys.argv[1:]))"
    modules, said = loaded_by(program, "config", "--schema")
    assert modules.isdisjoint(COSTLY)
    assert said.endswith("}\n0\n")


def test_grpc_is_told_to_be_quiet_before_a_learner_imports_it(tmp_path):
    program = (
        "import os, sys, types\n"
        "said = lambda argv, **_: print(os.environ['GRPC_VERBOSITY'], 'grpc' in sys.modules)\n"
        "sys.modules['pirl.runtime.learner'] = types.SimpleNamespace(main=said)\n"
        # Its libraries, which come after the word to gRPC too, take ten seconds.
        "sys.modules['pirl.tracking.live'] = types.SimpleNamespace(LiveTrackers=None)\n"
        "from pirl.learner import main\n"
        "main(sys.argv[1:])"
    )
    where = f"--output_dir={tmp_path / 'run'}"
    assert loaded_by(program, "--config_path", EMBEDDED, where)[1] == "ERROR False\n"


def test_a_folder_that_cannot_be_is_refused_before_anything_costly_is_loaded(tmp_path):
    (tmp_path / "file").touch()
    program = "import sys\nfrom pirl.cli import main\nprint(main(sys.argv[1:]))"
    where = f"--output_dir={tmp_path / 'file' / 'run'}"
    modules, said = loaded_by(program, "learner", "--config_path", EMBEDDED, where)
    assert modules.isdisjoint(COSTLY)
    assert said == "2\n"


@pytest.mark.parametrize(
    "module", ["pirl.runtime.launch", "pirl.gate.main", "pirl.doctor.main", "pirl.audit.verify"]
)
def test_what_starts_processes_or_looks_around_loads_no_torch(module):
    modules, _ = loaded_by(f"import {module}")
    assert modules.isdisjoint(COSTLY)


def test_the_gate_checks_machine_and_config_without_torch(tmp_path):
    program = (
        "import sys\nfrom pirl.gate.profiles import Profile\n"
        "from pirl.envs.machine import check_libero\n"
        "from pirl.config.check import check_config\n"
        "check_libero()\n"
        "check_config(Profile(name='libero', reason='').base_config)"
    )
    modules, _ = loaded_by(program, str(tmp_path))
    assert modules.isdisjoint(COSTLY)


def test_copies_in_the_argument_modules_are_what_they_copy():
    assert gate_arguments.LAUNCHERS == LAUNCHERS
    assert gate_arguments.PROFILES == profiles.PROFILES
    assert set(learning_arguments.CONTROLS) == set(settings.CONTROLS)
    assert settings.PARAMS == learning_arguments.PARAMS


def test_every_command_has_its_arguments_described():
    for name, command in COMMANDS.items():
        parser = resolve(command.parser)()
        assert parser.prog == f"pirl {name}"
        assert parser.description
        assert parser.example.partition(" ")[0] in ("pirl", "eval")
