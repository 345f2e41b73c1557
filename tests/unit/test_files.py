"""Writes that fail: one error with path, need, free space and remedy; what was there stays."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from pirl.errors import CheckpointError, EnvironmentNotReadyError
from pirl.files import (
    Appender,
    copy_tree,
    free_bytes,
    home_folder,
    require_space,
    write_json,
    write_text,
    writing,
)
from pirl.journal.metric_log import JsonLines


def test_a_replaced_file_is_the_old_one_or_the_new_one(tmp_path: Path, largest_file):
    path = write_json(tmp_path / "a" / "run.json", {"b": 1, "a": 2})
    assert path.read_text() == '{\n  "a": 2,\n  "b": 1\n}\n'
    with largest_file(64), pytest.raises(EnvironmentNotReadyError) as caught:
        write_text(path, "x" * 100)
    assert path.read_text() == '{\n  "a": 2,\n  "b": 1\n}\n'
    assert [p.name for p in path.parent.iterdir()] == ["run.json"]
    for word in (str(path), "100 bytes", "free there", "ulimit -f"):
        assert word in str(caught.value)


def test_a_first_write_that_fails_leaves_no_empty_file(tmp_path: Path, largest_file):
    with largest_file(0), pytest.raises(EnvironmentNotReadyError):
        write_text(tmp_path / "run.json", "x")
    assert list(tmp_path.iterdir()) == []


def test_a_value_that_json_cannot_hold_costs_nothing(tmp_path: Path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "run.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_line_that_does_not_fit_is_taken_back(tmp_path: Path, largest_file):
    path = tmp_path / "metrics.jsonl"
    with JsonLines(path) as lines:
        lines.write({"row": 1})
        with largest_file(20), pytest.raises(EnvironmentNotReadyError, match=r"metrics\.jsonl"):
            lines.write({"row": "x" * 50})
        lines.write({"row": 2})
    assert path.read_text() == '{"row":1}\n{"row":2}\n'


def test_appending_goes_on_after_a_torn_line_which_is_kept_beside(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"row":1}\n{"row"')
    with JsonLines(path) as lines:
        lines.write({"row": 2})
    assert path.read_text() == '{"row":1}\n{"row":2}\n'
    assert (tmp_path / f"metrics.torn-{os.getpid()}.jsonl").read_text() == '{"row"\n'


@pytest.mark.parametrize(
    ("raised", "word"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "resumed from its last checkpoint"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "quota"),
        (PermissionError(errno.EACCES, "Permission denied"), "writable for this user"),
        (OSError(errno.EROFS, "Read-only file system"), "read-only"),
        (OSError("a library's own words"), "a library's own words"),
        # As safetensors and tokenizers spell it.
        (Exception("Error while serializing: I/O error: File too large (os error 27)"), "ulimit"),
        # As `shutil.copytree` does.
        (shutil.Error([("a", "b", "[Errno 28] No space left on device: 'b'")]), "last checkpoint"),
    ],
)
def test_every_failed_write_is_one_kind_of_error(raised, word, tmp_path: Path):
    with (
        pytest.raises(EnvironmentNotReadyError, match=word) as caught,
        writing(tmp_path / "x", need=5),
    ):
        raise raised
    assert str(tmp_path / "x") in str(caught.value)
    assert caught.value.exit_code == 3
    assert caught.value.__cause__ is raised


@pytest.mark.parametrize("raised", [KeyError("x"), CheckpointError("taken")])
def test_other_errors_pass(raised, tmp_path: Path):
    with pytest.raises(type(raised)), writing(tmp_path):
        raise raised


def test_room_is_asked_of_the_nearest_folder_that_exists(tmp_path: Path):
    free = free_bytes(tmp_path / "not" / "yet")
    assert free is not None
    require_space(tmp_path / "not" / "yet", 1, what="x", fix="y")
    with pytest.raises(EnvironmentNotReadyError) as caught:
        require_space(tmp_path / "not" / "yet", 2**62, what="3 checkpoints", fix="save less often")
    for word in ("3 checkpoints", "MiB free there", "save less often", str(tmp_path)):
        assert word in str(caught.value)


def test_an_appender_that_cannot_open_names_the_file(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentNotReadyError, match="x"):
        Appender(tmp_path / "file" / "x.jsonl")


def a_folder(root: Path) -> Path:
    (root / "source" / "deep").mkdir(parents=True)
    (root / "source" / "deep" / "weights").write_text("x" * 100)
    (root / "source" / "last").symlink_to("deep/weights")
    return root / "source"


def test_a_copied_folder_needs_no_symbolic_links(tmp_path: Path, monkeypatch):
    source = a_folder(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refuse)
    copy = copy_tree(source, tmp_path / "copy")
    assert (copy / "last").read_text() == "x" * 100
    assert not (copy / "last").is_symlink()


def test_a_copy_that_does_not_fit_leaves_nothing(tmp_path: Path, largest_file):
    source = a_folder(tmp_path)
    with largest_file(64), pytest.raises(EnvironmentNotReadyError, match="ulimit -f"):
        copy_tree(source, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_copying_a_tree_onto_what_is_there_is_refused_and_removes_nothing(tmp_path: Path):
    source, target = tmp_path / "source", tmp_path / "copy"
    for folder in (source, target):
        folder.mkdir()
        (folder / folder.name).write_text("kept")
    with pytest.raises(EnvironmentNotReadyError, match="copy"):
        copy_tree(source, target)
    assert [p.name for p in target.iterdir()] == ["copy"]


def test_a_user_without_a_home_has_none(monkeypatch):
    def refuse() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", refuse)
    assert home_folder() is None
