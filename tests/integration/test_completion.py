"""The completion scripts in real shells: bash's function, and zsh at a terminal, where its own is called."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pirl.completion import script

pytestmark = pytest.mark.integration

REPO = Path(__file__).parents[2]
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
        (["config", "--help", "pirl.gam"], "pirl.gamma"),
        (["completion", "b"], "bash"),
        # Where bash then offers files.
        (["launch", "--config_path", ""], ""),
        (["launch", "--pirl.gamma", "=", ""], ""),
        (["status", ""], ""),
        (["status", "--j"], "--json"),
    ],
)
def test_bash_completes(line, offered):
    done = subprocess.run(
        ["bash", "--norc", "-c", script("bash") + ASK, "ask", "pirl", *line],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() == offered


@pytest.fixture(scope="module")
def zsh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """What a line has become in an interactive zsh when TAB was pressed at its end."""
    home = tmp_path_factory.mktemp("zsh")
    (home / ".zshrc").write_text(
        f"{script('zsh')}"
        "shown() { print -r -- $'\\n'\"<<$BUFFER>>\"; BUFFER=; }\n"
        "zle -N shown; bindkey '^X' shown; unsetopt beep\nPS1=; print '<<begun>>'\n"
    )
    shell, fd = pty.fork()
    if shell == 0:
        os.chdir(REPO)
        env = {"HOME": str(home), "ZDOTDIR": str(home), "TERM": "dumb", "PATH": os.environ["PATH"]}
        os.execvpe("zsh", ["zsh", "-d", "-i"], env)
    seen = b""

    def answer() -> str:
        nonlocal seen
        while not (found := re.search(rb"<<(.*?)>>", seen, re.DOTALL)):
            assert select.select([fd], [], [], 60)[0], seen
            seen += os.read(fd, 65536)
        seen = seen[found.end() :]
        return found.group(1).decode()

    def ask(line: str) -> str:
        os.write(fd, f"{line}\t\x18".encode())
        return answer()

    assert answer() == "begun"
    yield ask
    os.close(fd)
    os.waitpid(shell, 0)


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh; `do.py test` installs it as root")
@pytest.mark.parametrize(
    ("line", "becomes"),
    [
        ("pirl ga", "pirl gate "),
        ("pirl bench ju", "pirl bench judge "),
        ("pirl gate --va", "pirl gate --variant "),
        ("pirl gate --variant ", "pirl gate --variant flow-"),
        ("pirl gate --variant=flow-n", "pirl gate --variant=flow-noise "),
        ("pirl launch --pirl.gam", "pirl launch --pirl.gamma="),
        ("pirl launch --pirl.gamma=0.9 --qu", "pirl launch --pirl.gamma=0.9 --quiet "),
        ("pirl doctor --pirl.gam", "pirl doctor --pirl.gam"),
        ("pirl config --help pirl.gam", "pirl config --help pirl.gamma "),
        ("pirl launch --config_path READM", "pirl launch --config_path README.md "),
        ("pirl init --from confi", "pirl init --from configs/"),
        ("pirl status READM", "pirl status README.md "),
    ],
)
def test_zsh_completes(zsh, line, becomes):
    assert zsh(line) == becomes
