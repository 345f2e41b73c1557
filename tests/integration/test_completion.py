"""The completion script in a real bash; zsh reads the same one through `bashcompinit`."""

from __future__ import annotations

import subprocess

import pytest

from pirl.completion import script

pytestmark = pytest.mark.integration

ASK = """
COMP_WORDS=("$@")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_pirl 2>/dev/null
echo "${COMPREPLY[*]}"
"""


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        (["ga"], "gate"),
        (["bench", "ju"], "judge"),
        (["gate", "--va"], "--variant"),
        (["gate", "--variant", ""], "flow-sde flow-noise"),
        (["gate", "--variant", "=", "flow-n"], "flow-noise"),
        (["bench", "learn", "--control", "z"], "zero-rate"),
        (["launch", "--pirl.gam"], "--pirl.gamma="),
        (["doctor", "--pirl.gam"], ""),
        (["completion", "b"], "bash"),
    ],
)
def test_bash_completes(line, offered):
    done = subprocess.run(
        ["bash", "--norc", "-c", script("bash") + ASK, "ask", "pirl", *line],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() == offered
