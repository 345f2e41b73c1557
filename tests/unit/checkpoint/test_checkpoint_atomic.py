"""A published folder is complete or absent, whatever happens in between; the order of writes."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pirl.checkpoint.atomic import point_last_at, publish_folder, remove_leftovers
from pirl.checkpoint.locate import newest_step, resolve_checkpoint
from pirl.checkpoint.manifest import MANIFEST_NAME, verify_manifest
from pirl.config.jsonfile import find_config_file, follow_last
from pirl.errors import CheckpointError, EnvironmentNotReadyError


def fill(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "a.bin").write_bytes(b"a" * 4096)
    (folder / "sub" / "b.bin").write_bytes(b"b" * 4096)


def publish(checkpoints: Path, name: str) -> None:
    point_last_at(publish_folder(checkpoints, name, fill))


def dead_pid() -> int:
    with subprocess.Popen(["true"]) as process:
        process.wait(timeout=60)
    return process.pid


def opened(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


class Trace:
    """Every call that changes the disk, in order; optionally fails at the n-th one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        self.calls: list[tuple[str, str]] = []
        self.root = root
        self.fail_at: int | None = None
        for name in ("mkdir", "rename", "replace", "symlink", "unlink"):
            monkeypatch.setattr(os, name, self._wrap(name, getattr(os, name)))
        monkeypatch.setattr(os, "fsync", self._wrap("fsync", os.fsync))

    def _wrap(self, name, original):
        def call(*args, **kwargs):
            target = opened(args[0]) if name == "fsync" else str(args[-1])
            self.note(name, target)
            return original(*args, **kwargs)

        return call

    def note(self, name: str, target: str) -> None:
        if not target.startswith(str(self.root)):
            return
        if self.fail_at is not None and len(self.calls) == self.fail_at:
            raise OSError(f"injected at {name} {target}")
        relative = os.path.relpath(target, self.root).replace(str(os.getpid()), "PID")
        self.calls.append((name, relative))


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Trace]:
    with monkeypatch.context() as patch:
        yield Trace(patch, tmp_path)


def test_everything_is_flushed_before_the_name_appears(trace: Trace, tmp_path: Path) -> None:
    publish(tmp_path / "checkpoints", "000004")
    calls = trace.calls
    temporary = "checkpoints/.tmp-000004-PID"
    renamed = calls.index(("rename", "checkpoints/000004"))
    manifest = calls.index(("fsync", f"{temporary}/{MANIFEST_NAME}"))
    contents = [
        calls.index(("fsync", f"{temporary}/{name}")) for name in ("a.bin", "sub/b.bin", "sub")
    ]
    assert max(contents) < manifest < renamed
    assert ("fsync", temporary) in calls[manifest:renamed]
    swapped = calls.index(("replace", "checkpoints/last"))
    assert ("fsync", "checkpoints") in calls[renamed:swapped]
    assert calls[-1] == ("fsync", "checkpoints")


def test_a_failure_at_any_call_leaves_the_previous_checkpoint_and_a_valid_link(
    trace: Trace, tmp_path: Path
) -> None:
    checkpoints = tmp_path / "checkpoints"
    publish(checkpoints, "000002")
    before = len(trace.calls)
    publish(checkpoints, "000004")
    total = len(trace.calls) - before
    outcomes: set[str] = set()
    for position in range(total):
        shutil.rmtree(checkpoints / "000004")
        trace.calls.clear()
        trace.fail_at = None
        point_last_at(checkpoints / "000002")
        trace.calls.clear()
        trace.fail_at = position
        with pytest.raises(EnvironmentNotReadyError, match="injected"):
            publish(checkpoints, "000004")
        trace.fail_at = None
        assert verify_manifest(checkpoints / "000002") == []
        assert (checkpoints / "last").resolve().name in {"000002", "000004"}
        newest = newest_step(checkpoints)
        assert verify_manifest(newest) == []
        outcomes.add(newest.name)
        publish_if_absent(checkpoints)
    assert outcomes == {"000002", "000004"}


def publish_if_absent(checkpoints: Path) -> None:
    """What a later save does; it must get over whatever the failed one left."""
    if not (checkpoints / "000004").exists():
        publish(checkpoints, "000004")
    assert sorted(p.name for p in checkpoints.iterdir() if p.name.startswith(".tmp")) == []


def test_an_existing_folder_is_never_overwritten(tmp_path: Path) -> None:
    publish(tmp_path, "000004")
    (tmp_path / "000004" / "a.bin").write_bytes(b"mine")
    with pytest.raises(CheckpointError, match="exists already"):
        publish(tmp_path, "000004")
    assert (tmp_path / "000004" / "a.bin").read_bytes() == b"mine"


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_symbolic_links_the_newest_step_is_last(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """exFAT, many SMB and FUSE mounts: one warning, and every way to name `last` still works."""

    def no_links(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "symlink", no_links)
    checkpoints = tmp_path / "checkpoints"
    for name in ("000002", "000010"):
        publish(checkpoints, name)
        (checkpoints / name / "pretrained_model").mkdir()
        (checkpoints / name / "pretrained_model" / "train_config.json").write_text("{}")
    assert caplog.text.count("no symbolic links") == 1
    assert sorted(p.name for p in checkpoints.iterdir()) == ["000002", "000010"]
    given = checkpoints / "last" / "pretrained_model" / "train_config.json"
    newest = checkpoints / "000010" / "pretrained_model" / "train_config.json"
    assert find_config_file(given) == find_config_file(given.parent) == newest
    assert resolve_checkpoint(tmp_path) == resolve_checkpoint(given) == checkpoints / "000010"
    (checkpoints / "000010" / MANIFEST_NAME).unlink()
    assert follow_last(given).parts[-3] == "000002"
    assert "does not point" not in caplog.text


def test_a_link_that_fails_on_a_file_system_with_links_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path, "000002")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "symlink", full)
    with pytest.raises(EnvironmentNotReadyError, match="last"):
        publish(tmp_path, "000004")
    assert (tmp_path / "last").resolve().name == "000002"


@pytest.mark.parametrize("path", ["last", "a/last/b", "checkpoints/last", "checkpoints"])
def test_only_a_missing_link_of_a_run_is_replaced(path: str, tmp_path: Path) -> None:
    assert follow_last(tmp_path / path) == tmp_path / path


def test_a_full_disk_is_an_error_about_the_step_and_leaves_nothing(tmp_path: Path) -> None:
    publish(tmp_path, "000002")

    def full(folder: Path) -> None:
        fill(folder)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(EnvironmentNotReadyError) as caught:
        publish_folder(tmp_path, "000004", full, need=123 * 2**20)
    for word in (str(tmp_path / "000004"), "123.0 MiB", "free there", "resumed"):
        assert word in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000002", "last"]


def test_a_failing_writer_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        fill(folder)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        publish_folder(tmp_path, "000004", fail)
    assert list(tmp_path.iterdir()) == []


def test_the_link_is_relative_so_that_a_run_can_be_moved(tmp_path: Path) -> None:
    publish(tmp_path / "run" / "checkpoints", "000004")
    moved = (tmp_path / "run").rename(tmp_path / "elsewhere")
    assert (moved / "checkpoints" / "last").readlink() == Path("000004")
    assert (moved / "checkpoints" / "last" / MANIFEST_NAME).is_file()


def test_a_real_folder_called_last_stops_the_swap_and_stays(tmp_path: Path) -> None:
    (tmp_path / "last").mkdir()
    with pytest.raises(CheckpointError, match="not a link"):
        publish(tmp_path, "000004")
    assert (tmp_path / "last").is_dir()


def test_a_dangling_link_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "last").symlink_to("000009")
    publish(tmp_path, "000004")
    assert (tmp_path / "last").readlink() == Path("000004")


def test_leftovers_of_dead_processes_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    dead, living = dead_pid(), os.getppid()
    for name in (f".tmp-000004-{dead}", f".tmp-000004-{living}", f".tmp-000002-{os.getpid()}"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_bytes(b"x")
    (tmp_path / f".last-{dead}").symlink_to("000001")
    (tmp_path / ".tmp-notes").mkdir()
    (tmp_path / "000001").mkdir()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f".tmp-000004-{living}",
        ".tmp-notes",
        "000001",
    ]


def test_the_next_save_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    (tmp_path / f".tmp-000002-{dead_pid()}").mkdir()
    publish(tmp_path, "000004")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000004", "last"]
