"""A published folder is complete or absent, whatever happens in between; the order of writes."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pirl.checkpoint.atomic import point_last_at, publish_folder, remove_leftovers
from pirl.checkpoint.locate import newest_step
from pirl.checkpoint.manifest import MANIFEST_NAME, verify_manifest
from pirl.errors import CheckpointError


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
        with pytest.raises(CheckpointError, match="injected"):
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
