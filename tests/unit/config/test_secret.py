"""The token: from an option, the environment or a private file; handed on without an argument."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pirl.config.recipe import RuntimeConfig
from pirl.config.secret import TOKEN_VARIABLE, token_environment, with_token, without_token
from pirl.errors import ConfigError

TOKEN, OTHER = "correct-horse-battery", "another-horse-battery"


@pytest.fixture(autouse=True)
def _no_token_around(monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


def a_file(folder: Path, text: str = f"{TOKEN}\n", mode: int = 0o600) -> str:
    path = folder / "token"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_without_any_source_there_is_no_token():
    assert with_token(RuntimeConfig()).token is None


def test_an_option_comes_before_the_environment_and_that_before_the_file(tmp_path, monkeypatch):
    runtime = RuntimeConfig(token_file=a_file(tmp_path))
    assert with_token(runtime).token == TOKEN
    monkeypatch.setenv(TOKEN_VARIABLE, OTHER)
    assert with_token(runtime).token == OTHER
    assert with_token(RuntimeConfig(token="given")).token == "given"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o620])
def test_a_file_that_others_may_touch_is_refused(tmp_path, mode):
    with pytest.raises(ConfigError, match="chmod 600") as caught:
        with_token(RuntimeConfig(token_file=a_file(tmp_path, mode=mode)))
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_private_file_is_read(tmp_path, mode):
    assert with_token(RuntimeConfig(token_file=a_file(tmp_path, mode=mode))).token == TOKEN


@pytest.mark.parametrize("text", ["", "short", "with blanks in the middle of it", "\x00" * 20])
def test_a_file_without_a_token_is_refused(tmp_path, text):
    with pytest.raises(ConfigError, match="token"):
        with_token(RuntimeConfig(token_file=a_file(tmp_path, text)))


def test_a_missing_file_a_folder_and_a_fifo_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "fifo", 0o600)
    for name in ("nowhere", "fifo", "."):
        with pytest.raises(ConfigError, match=r"runtime\.token_file"):
            with_token(RuntimeConfig(token_file=str(tmp_path / name)))


def test_a_short_token_in_the_environment_is_refused_and_not_shown(monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, "hunter2")
    with pytest.raises(ConfigError) as caught:
        with_token(RuntimeConfig())
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "given", [[f"--runtime.token={TOKEN}"], ["--runtime.token", TOKEN], ["--runtime.token"]]
)
def test_a_child_gets_the_token_by_environment_only(given):
    before = ["--runtime.actors=2", *given, "--seed=1"]
    assert without_token(before) == ["--runtime.actors=2", "--runtime.token=null", "--seed=1"][
        : len(before)
    ] or given == ["--runtime.token"]
    assert TOKEN not in " ".join(without_token(before))
    env = token_environment(RuntimeConfig(token=TOKEN), {"A": "b"})
    assert env == {"A": "b", TOKEN_VARIABLE: TOKEN}
    assert token_environment(RuntimeConfig(), None) == {}
