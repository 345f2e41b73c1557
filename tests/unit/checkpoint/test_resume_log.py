"""Where a run went on, and with which changes, is on the disk before it goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pirl.checkpoint.record import ResumeDifferences, log_resume
from pirl.errors import FieldMismatch


def test_each_resume_is_a_line_that_was_flushed_to_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda number: flushed.append(os.fstat(number).st_ino))
    changed = FieldMismatch(field="runtime.port", ours=2, theirs=1)
    for step, allowed in ((4, ()), (8, (changed,))):
        path = log_resume(tmp_path, step, ResumeDifferences(allowed=allowed, forbidden=()))
    assert flushed.count(path.stat().st_ino) == 2
    first, second = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    assert (first["step"], first["changed"]) == (4, [])
    assert (second["step"], second["changed"]) == (
        8,
        [{"field": "runtime.port", "checkpoint": 1, "now": 2}],
    )
    assert "torch" in first["versions"]
