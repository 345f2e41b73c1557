"""A disk that is full at any part of a checkpoint, and records that are damaged under a manifest that fits."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from checkpoint_builders import Run, a_run, edit_json, load, resign, save, train

from pirl.checkpoint import resolve_checkpoint, verify_manifest
from pirl.checkpoint.layout import RUN_STATE
from pirl.checkpoint.save import checkpoint_bytes
from pirl.errors import CheckpointError, EnvironmentNotReadyError, MismatchError
from pirl.runtime.learner import Learner
from pirl.runtime.store import RolloutStore


@pytest.fixture(scope="module")
def trained() -> Run:
    run = a_run()
    train(run, 1)
    return run


def sizes(folder: Path) -> list[int]:
    return sorted({path.stat().st_size for path in folder.rglob("*") if path.is_file()})


def test_a_disk_that_is_full_at_any_part_costs_nothing_that_is_there(
    trained: Run, tmp_path: Path, largest_file
):
    """Each limit lets every smaller file of a checkpoint through and stops at the next larger one."""
    first = save(trained, tmp_path, 1).path
    for limit in sizes(first)[:-1]:
        with largest_file(limit), pytest.raises(EnvironmentNotReadyError) as caught:
            save(trained, tmp_path, 2)
        assert str(tmp_path / "checkpoints" / "000002") in str(caught.value)
        assert "free there" in str(caught.value)
        assert sorted(p.name for p in first.parent.iterdir()) == ["000001", "last"]
    assert verify_manifest(first) == []
    save(trained, tmp_path, 2)
    load(copy.deepcopy(trained), resolve_checkpoint(tmp_path))


def test_what_a_checkpoint_needs_is_known_before_it_is_written(trained: Run, tmp_path: Path):
    need = checkpoint_bytes(trained.policy, trained.algorithm)
    written = sum(
        p.stat().st_size for p in save(trained, tmp_path, 1).path.rglob("*") if p.is_file()
    )
    assert written <= need <= written + 5 * 2**20


def test_room_is_counted_tensor_by_tensor(trained: Run):
    def held(tensors) -> int:
        return sum(len(tensor.detach().numpy().tobytes()) for tensor in tensors)

    algorithm = trained.algorithm
    moments = 2 * held(algorithm._nets.parameters().values())
    parts = (trained.policy.module.state_dict(), algorithm.state_dict(), algorithm.training_state())
    tensors = moments + sum(held(part.values()) for part in parts)
    assert checkpoint_bytes(trained.policy, algorithm) == tensors + 4 * 2**20


@pytest.mark.parametrize(
    ("every", "keep", "checkpoints"), [(0, 0, 1), (1, 0, 8), (3, 0, 3), (8, 0, 1), (1, 2, 4)]
)
def test_a_run_that_does_not_fit_stops_before_its_first_rollout(
    every: int, keep: int, checkpoints: int, trained: Run, tmp_path: Path, monkeypatch
):
    runtime = SimpleNamespace(
        total_updates=8,
        checkpoint_every_updates=every,
        rollout_chunks=4,
        keep_checkpoints=keep,
        keep_checkpoints_every=0,
    )
    learner: Any = SimpleNamespace(
        _cfg=SimpleNamespace(runtime=runtime),
        _session=trained_session(trained),
        _folder=SimpleNamespace(root=tmp_path),
        _version=0,
    )
    each = checkpoint_bytes(trained.policy, trained.algorithm)
    monkeypatch.setattr("pirl.files.free_bytes", lambda _: checkpoints * each)
    with pytest.raises(EnvironmentNotReadyError, match=f"{checkpoints} checkpoints") as caught:
        Learner.require_space(learner)
    assert "checkpoint_every_updates" in str(caught.value)
    monkeypatch.setattr("pirl.files.free_bytes", lambda _: checkpoints * each + 2**23)
    Learner.require_space(learner)
    # A finished run that is resumed writes no checkpoint.
    learner._version = 8
    monkeypatch.setattr("pirl.files.free_bytes", lambda _: 2**23)
    Learner.require_space(learner)


def trained_session(run: Run) -> Any:
    return SimpleNamespace(policy=run.policy, algorithm=run.algorithm)


WRONG: dict[str, Any] = {
    "run_id": [None, 3, []],
    "step": [None, "2", True, 2.0],
    "policy_version": [None, "2"],
    "counters": [None, [], 3],
    "env_cursor": ["x"],
    "identity": [[], None, {}],
    "config": [[], None, {}],
    "policy": [3, {}],
    "versions": [[], {}],
    "digests": [None, [], {}],
    "record_version": [None, "1", []],
}


@pytest.mark.parametrize(
    ("field", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_a_record_with_wrong_types_is_refused_in_words(
    field: str, value: Any, trained: Run, tmp_path: Path
):
    step_dir = save(trained, tmp_path, 1).path
    edit_json(step_dir / RUN_STATE, lambda record: record.update({field: value}))
    resign(step_dir)
    with pytest.raises((CheckpointError, MismatchError), match=r"\S"):
        load(copy.deepcopy(trained), step_dir)


@pytest.mark.parametrize("counters", [{}, {"books": 3}, {"books": {"x": 1}}, {"books": {}}])
def test_counters_that_no_learner_wrote_are_refused_in_words(
    counters: Any, monkeypatch, tmp_path: Path
):
    state = SimpleNamespace(policy_version=1, counters=counters)
    monkeypatch.setattr("pirl.runtime.learner.load_checkpoint", lambda *_, **__: state)
    learner: Any = SimpleNamespace(
        _cfg=None,
        _session=SimpleNamespace(policy=None, algorithm=None),
        _folder=SimpleNamespace(root=tmp_path),
        _store=RolloutStore(actors=1, mode="sync", staleness_threshold=0),
    )
    with pytest.raises(CheckpointError, match="counters"):
        Learner.restore(learner, tmp_path)
