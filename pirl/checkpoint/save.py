"""Write a checkpoint: LeRobot's layout plus everything a bit-identical resume needs.

Owns which part goes into which file. Refuses to know when a checkpoint is due. Read
`pirl.checkpoint.load` next; the format is in docs/checkpoint.md.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lerobot.common.train_utils import get_step_identifier
from lerobot.optim import save_optimizer_state
from lerobot.utils.constants import (
    ALGORITHM_DIR,
    CHECKPOINTS_DIR,
    PRETRAINED_MODEL_DIR,
    TRAINING_STATE_DIR,
)
from safetensors.torch import save_file
from torch import Tensor

from pirl.algorithm.pi_rl import PiRLAlgorithm
from pirl.checkpoint.atomic import point_last_at, publish_folder, refuse_real_last
from pirl.checkpoint.digests import state_digests
from pirl.checkpoint.layout import (
    ALGORITHM_STATE,
    RNG_FILE,
    RUN_STATE,
    STEP_FILE,
    TRAIN_CONFIG,
    missing_parts,
)
from pirl.checkpoint.locate import step_folders
from pirl.checkpoint.manifest import verify_manifest
from pirl.checkpoint.record import describe_run, read_record
from pirl.checkpoint.rng import read_rng
from pirl.checkpoint.state import RunState
from pirl.config.load import write_resolved
from pirl.config.train import PiRLTrainConfig, env_of
from pirl.contract.flow_policy import FlowPolicy
from pirl.errors import CheckpointError
from pirl.files import write_json

_SMALL_FILES = 4 * 2**20
"""Bytes of a checkpoint that are no tensors; the largest is the tokenizer."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedCheckpoint:
    """A complete step folder and the digests of what is in it."""

    path: Path
    digests: Mapping[str, str]
    kept: bool
    """True when the step was there already, with the same digests, and nothing was written."""


def save_checkpoint(
    run_dir: Path,
    *,
    state: RunState,
    total_steps: int,
    cfg: PiRLTrainConfig,
    flow_policy: FlowPolicy,
    algorithm: PiRLAlgorithm,
) -> SavedCheckpoint:
    """Write `run_dir/checkpoints/<step>` and point `last` at it; earlier steps stay untouched.

    A crash at any moment leaves the previous checkpoint intact and `last` valid. A step that exists
    already with equal digests is kept as it is (a resumed run passes its old steps again).

    Args:
        total_steps: updates the run will have, for the width of the folder's name (at least 6).

    Raises:
        CheckpointError: the step exists with another content or incomplete, `last` is not a link,
            or the state has an entry that cannot be stored.
        EnvironmentNotReadyError: the file system refused; nothing of this step stays.
    """
    checkpoints = run_dir / CHECKPOINTS_DIR
    refuse_real_last(checkpoints)
    digests = state_digests(flow_policy, algorithm, state)
    existing = step_folders(checkpoints).get(state.step)
    if existing is not None:
        _require_equal(existing, digests)
        point_last_at(existing)
        return SavedCheckpoint(path=existing, digests=digests, kept=True)

    def fill(folder: Path) -> None:
        _write_policy(folder, cfg=cfg, flow_policy=flow_policy)
        algorithm.save_pretrained(folder / ALGORITHM_DIR)
        _write_training_state(folder, algorithm=algorithm, state=state)
        record = describe_run(
            state,
            cfg=cfg,
            flow_policy=flow_policy,
            demonstrations=algorithm.demonstrations,
            digests=digests,
        )
        write_json(folder / RUN_STATE, record, sort_keys=False)
        forgotten = missing_parts(folder)
        if forgotten:
            raise CheckpointError("a part of the checkpoint was not written", parts=forgotten)

    name = get_step_identifier(state.step, total_steps)
    need = checkpoint_bytes(flow_policy, algorithm)
    target = publish_folder(checkpoints, name, fill, need=need)
    point_last_at(target)
    _logger.info("checkpoint %s is complete", target)
    return SavedCheckpoint(path=target, digests=digests, kept=False)


def checkpoint_bytes(flow_policy: FlowPolicy, algorithm: PiRLAlgorithm) -> int:
    """What one checkpoint takes on disk, at most: weights, what the algorithm owns, two moments for each
    trained value, and room for configs, tokenizer and manifest.
    """
    weights = _bytes(flow_policy.module.state_dict().values())
    owned = _bytes(algorithm.state_dict().values())
    trained = [
        parameter
        for optimizer in algorithm.get_optimizers().values()
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    rest = _bytes(algorithm.training_state().values())
    return weights + owned + 2 * _bytes(trained) + rest + _SMALL_FILES


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _write_policy(folder: Path, *, cfg: PiRLTrainConfig, flow_policy: FlowPolicy) -> None:
    flow_policy.save(folder / PRETRAINED_MODEL_DIR, env_type=env_of(cfg).type)
    # Without the shared secret: a checkpoint is copied and published.
    write_resolved(cfg, folder / TRAIN_CONFIG)


def _write_training_state(folder: Path, *, algorithm: PiRLAlgorithm, state: RunState) -> None:
    training_state = folder / TRAINING_STATE_DIR
    training_state.mkdir()
    save_optimizer_state(dict(algorithm.get_optimizers()), training_state)
    save_file(algorithm.training_state(), folder / ALGORITHM_STATE)
    write_json(folder / STEP_FILE, {"step": state.step})
    save_file(read_rng(state.generators), folder / RNG_FILE)


def _require_equal(existing: Path, digests: Mapping[str, str]) -> None:
    """Accept an existing step folder only when it is intact and holds the same state.

    Raises:
        CheckpointError: lists what differs.
    """
    problems = [str(problem) for problem in verify_manifest(existing)]
    if not problems:
        recorded = read_record(existing)["digests"]
        problems = [
            f"{name}: {recorded.get(name)} there, {digest} now"
            for name, digest in digests.items()
            if recorded.get(name) != digest
        ]
    if problems:
        raise CheckpointError(
            f"{existing} exists and is not what would be saved now; it is never overwritten. "
            "Move it away, or resume from it",
            parts=problems,
        )
