"""Event files that are whole whatever the disk does, written without a thread."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pirl.tracking.live import TENSORBOARD, TensorBoard


def steps(root: Path) -> list[int]:
    found = EventAccumulator(str(root / TENSORBOARD))
    found.Reload()
    return [event.step for event in found.Scalars("loss")]


def test_a_row_that_does_not_fit_is_an_error_and_the_others_stay_readable(tmp_path, largest_file):
    run: Any = SimpleNamespace(root=tmp_path, version=0)
    before = threading.active_count()
    board = TensorBoard(run)
    board.write(1, {"loss": 1.0, "kl": 2.0})
    (file,) = (tmp_path / TENSORBOARD).iterdir()
    size = file.stat().st_size
    with largest_file(size + 10), pytest.raises(OSError, match="too large"):
        board.write(2, {"loss": 1.0, "kl": 2.0})
    assert file.stat().st_size == size
    board.write(3, {"loss": 1.0})
    board.close(finished=True)
    assert threading.active_count() == before
    assert steps(tmp_path) == [1, 3]


def test_a_resumed_run_hides_what_is_played_again(tmp_path):
    for version, rows in ((0, (1, 2, 3)), (1, (2,))):
        board = TensorBoard(SimpleNamespace(root=tmp_path, version=version))
        for step in rows:
            board.write(step, {"loss": float(version)})
        board.close(finished=False)
    assert steps(tmp_path) == [1, 2]
