"""A folder has one owner, whoever asks and however the owner ends."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pirl import ownership
from pirl.errors import ConfigError, EnvironmentNotReadyError
from pirl.ownership import LOCK_NAME, clear, contents, disown, own, owned, owner_of


def test_a_second_owner_is_told_who_the_first_is(tmp_path: Path):
    with owned(tmp_path, field="--out"), pytest.raises(ConfigError) as caught:
        own(tmp_path, field="--out")
    assert caught.value.exit_code == 2
    message = str(caught.value)
    for word in ("--out", f"pid {os.getpid()}", "started 20", "pytest", str(tmp_path)):
        assert word in message


def test_the_command_of_the_owner_carries_no_token(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["pirl", "learner", "--runtime.token=s3cret-value"])
    with owned(tmp_path, field="output_dir"):
        assert "s3cret" not in (tmp_path / LOCK_NAME).read_text()
        with pytest.raises(ConfigError) as caught:
            own(tmp_path, field="output_dir")
    assert "s3cret" not in str(caught.value)


def test_a_folder_given_back_is_as_if_never_owned(tmp_path: Path):
    with owned(tmp_path, field="x"):
        assert contents(tmp_path) == []
        (tmp_path / "a").write_text("")
        assert [p.name for p in contents(tmp_path)] == ["a"]
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    with owned(tmp_path / "new" / "er", field="x"):
        pass
    assert not (tmp_path / "new" / "er").exists()
    with owned(tmp_path, field="x"):
        clear(tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == [LOCK_NAME]


def test_a_name_is_not_the_folder(tmp_path: Path, monkeypatch):
    """Links and relative names lead to the same owner."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    with owned(Path("real"), field="x"), pytest.raises(ConfigError):
        own(tmp_path / "link", field="x")


def test_a_killed_owner_frees_its_folder_and_leaves_a_file_that_does_not_count(tmp_path: Path):
    code = (
        "import sys, pathlib, os, signal; from pirl.ownership import own\n"
        "own(pathlib.Path(sys.argv[1]), field='x'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=120, check=False)
    assert run.returncode == -9
    assert owner_of(tmp_path) is not None
    assert contents(tmp_path) == []
    with owned(tmp_path, field="x"):
        owner = owner_of(tmp_path)
        assert owner is not None
        assert owner.pid == os.getpid()


def test_a_lock_on_a_file_that_is_no_longer_the_folders_does_not_count(tmp_path: Path, monkeypatch):
    """Between open and lock the first owner may give the folder back and a third one may take it."""
    real, calls = fcntl.flock, []

    def late(descriptor: int, operation: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            (tmp_path / LOCK_NAME).unlink()
            (tmp_path / LOCK_NAME).write_text("")
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with owned(tmp_path, field="x"):
        assert len(calls) == 2
        monkeypatch.setattr(fcntl, "flock", real)
        with pytest.raises(ConfigError):
            own(tmp_path, field="x")


def test_an_owner_that_has_not_signed_is_still_an_owner(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(ownership, "_READ_S", 0.0)
    with owned(tmp_path, field="x"):
        (tmp_path / LOCK_NAME).write_bytes(b"{")
        with pytest.raises(ConfigError, match="has not said which"):
            own(tmp_path, field="x")
        (tmp_path / LOCK_NAME).write_text(json.dumps({"pid": 1}))
        assert owner_of(tmp_path) is None


@pytest.mark.parametrize("name", ["file/run", "file", "n" * 300, "\N{MUSICAL SYMBOL G CLEF}" * 70])
def test_a_path_that_cannot_be_a_folder_is_a_wrong_argument(name: str, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="output_dir"):
        own(tmp_path / name, field="output_dir")


def test_a_path_below_proc_is_a_wrong_argument():
    with pytest.raises(ConfigError, match="output_dir"):
        own(Path("/proc/nope/run"), field="output_dir")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_refused_with_what_to_do(
    number, tmp_path: Path, monkeypatch
):
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(EnvironmentNotReadyError, match="local disk"):
        own(tmp_path, field="x")
    monkeypatch.undo()
    with owned(tmp_path, field="x"):
        pass


def test_a_lock_that_cannot_be_signed_is_given_back(tmp_path: Path, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(EnvironmentNotReadyError, match="output_dir: cannot write"):
        own(tmp_path, field="output_dir")
    monkeypatch.undo()
    own(tmp_path, field="output_dir")
    disown(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"[" * 60_000, b'{"pid": 1}', b"\xff", b"x" * 10**6])
def test_a_lock_file_that_nobody_signed_names_no_owner(tmp_path: Path, monkeypatch, content: bytes):
    monkeypatch.setattr(ownership, "_READ_S", 0.0)
    (tmp_path / LOCK_NAME).write_bytes(content)
    assert owner_of(tmp_path) is None


def test_a_pipe_in_the_place_of_the_lock_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / LOCK_NAME)
    assert owner_of(tmp_path) is None
