"""Which checkpoints stay, and that the others go at once and whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from pirl.checkpoint.atomic import point_last_at, remove_leftovers
from pirl.checkpoint.locate import newest_step, step_folders
from pirl.checkpoint.manifest import MANIFEST_NAME
from pirl.checkpoint.retention import most_at_once, prune, steps_to_drop

TENS = list(range(10, 110, 10))


@pytest.mark.parametrize(
    ("steps", "newest", "every", "stay"),
    [
        (TENS, 0, 0, TENS),
        (TENS, 1, 0, [10, 100]),
        (TENS, 3, 0, [10, 80, 90, 100]),
        (TENS, 2, 40, [10, 40, 80, 90, 100]),
        (TENS, 20, 0, TENS),
        ([7], 1, 0, [7]),
        ([7, 9], 1, 0, [7, 9]),
        ([], 1, 0, []),
    ],
)
def test_the_first_the_newest_and_every_so_many_stay(steps, newest, every, stay):
    dropped = steps_to_drop(steps, newest=newest, every=every)
    assert sorted(set(steps) - set(dropped)) == stay


@pytest.mark.parametrize(("newest", "every"), [(0, 0), (1, 0), (3, 0), (2, 40), (1, 10)])
def test_never_more_lie_on_the_disk_than_was_said_before_the_start(newest, every):
    held, most = [], 0
    for step in TENS:
        held.append(step)
        most = max(most, len(held))
        gone = steps_to_drop(held, newest=newest, every=every)
        held = [step for step in held if step not in gone]
    assert most <= most_at_once(len(TENS), updates=100, newest=newest, every=every)


@pytest.mark.parametrize(
    ("newest", "every", "most"), [(0, 0, 10), (1, 0, 3), (3, 0, 5), (2, 40, 6), (9, 1, 10)]
)
def test_how_many_may_lie_on_the_disk_is_known_before_the_start(newest, every, most):
    assert most_at_once(len(TENS), updates=100, newest=newest, every=every) == most


def test_who_removes_nothing_says_nothing(tmp_path, caplog):
    caplog.set_level("INFO", logger="pirl")
    assert prune(a_run(tmp_path, [1, 2]), newest=2, every=0) == []
    assert caplog.messages == []


def a_run(tmp_path: Path, steps) -> Path:
    for step in steps:
        folder = tmp_path / f"{step:06d}"
        (folder / "pretrained_model").mkdir(parents=True)
        (folder / MANIFEST_NAME).touch()
        point_last_at(folder)
    return tmp_path


def test_what_goes_is_gone_and_last_still_points_at_the_newest(tmp_path):
    checkpoints = a_run(tmp_path, [1, 2, 3, 4])
    gone = prune(checkpoints, newest=1, every=0)
    assert [folder.name for folder in gone] == ["000002", "000003"]
    assert sorted(p.name for p in checkpoints.iterdir()) == ["000001", "000004", "last"]
    assert (checkpoints / "last").resolve() == newest_step(checkpoints).resolve()


def test_incomplete_steps_neither_count_nor_go(tmp_path):
    checkpoints = a_run(tmp_path, [1, 2, 3])
    (checkpoints / "000004" / "pretrained_model").mkdir(parents=True)
    prune(checkpoints, newest=1, every=0)
    assert list(step_folders(checkpoints)) == [1, 3, 4]


def test_a_folder_that_cannot_be_removed_is_reported_and_goes_with_the_next_save(
    tmp_path, monkeypatch, caplog
):
    checkpoints = a_run(tmp_path, [1, 2, 3])

    def refuse(path):
        raise OSError(39, "Directory not empty", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("pirl.checkpoint.retention.shutil.rmtree", refuse)
        prune(checkpoints, newest=1, every=0)
    assert "000002 cannot be removed" in caplog.text
    assert list(step_folders(checkpoints)) == [1, 3]
    remove_leftovers(checkpoints)
    assert sorted(p.name for p in checkpoints.iterdir()) == ["000001", "000003", "last"]
