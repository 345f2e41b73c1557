"""Restore a checkpoint completely or not at all: verify, compare, restore, compare again.

Owns the order of the checks. There is no default for a part that is missing and no way on after a
failure: a resume that cannot restore everything ends the process. Read docs/checkpoint.md next.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lerobot.optim import load_optimizer_state
from lerobot.utils.constants import TRAINING_STATE_DIR
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model

from pirl.algorithm.pi_rl import PiRLAlgorithm
from pirl.checkpoint.digests import state_digests
from pirl.checkpoint.layout import (
    ALGORITHM_STATE,
    ALGORITHM_WEIGHTS,
    POLICY_WEIGHTS,
    RNG_FILE,
    missing_parts,
)
from pirl.checkpoint.manifest import MANIFEST_KINDS, verify_manifest
from pirl.checkpoint.record import DEMONSTRATIONS, compare_run, log_resume, read_record
from pirl.checkpoint.rng import restore_rng
from pirl.checkpoint.state import RunState
from pirl.config.train import PiRLTrainConfig
from pirl.contract.flow_policy import FlowPolicy
from pirl.errors import CheckpointError, FieldMismatch, MismatchError
from pirl.foreign import machine_error
from pirl.hooks import disabled

_SIDES = ("now", "checkpoint")

_logger = logging.getLogger(__name__)


def load_checkpoint(
    step_dir: Path,
    *,
    cfg: PiRLTrainConfig,
    flow_policy: FlowPolicy,
    algorithm: PiRLAlgorithm,
    run_dir: Path | None,
) -> RunState:
    """Put the state saved in `step_dir` into `flow_policy`, `algorithm` and this process.

    Order: manifest, required parts, comparison with `cfg` and `flow_policy`, weights, critic and
    noise head, optimiser, scheduler, random state; then the digests of the live state are compared
    with the recorded ones. `algorithm` must have its optimiser already. Nothing is restored before
    every check of the files and of the run has passed.

    Args:
        step_dir: a step folder, as `resolve_checkpoint` gives it.
        run_dir: where `resume_log.jsonl` lies; None only to look, not to resume.

    Raises:
        CheckpointError: parts are missing, damaged or extra, or the restored state is not the saved
            one; lists all of them.
        MismatchError: the manifest was edited, or the run is another one; every field with the
            value now and the value in the checkpoint.
    """
    verify_files(step_dir)
    record = read_record(step_dir)
    differences = compare_run(
        record, cfg=cfg, flow_policy=flow_policy, demonstrations=algorithm.demonstrations
    )
    if differences.forbidden:
        where = _what(step_dir)
        if any(field.field.startswith(DEMONSTRATIONS) for field in differences.forbidden):
            where += (
                ": a run imitates the same demonstrations to its end, set dataset.root to theirs"
            )
        raise MismatchError(where, differences.forbidden, sides=_SIDES)
    for field in differences.allowed:
        _logger.warning("resume changes %s from %r to %r", field.field, field.theirs, field.ours)
    generators = _restore(step_dir, flow_policy=flow_policy, algorithm=algorithm)
    state = RunState(
        run_id=record["run_id"],
        step=record["step"],
        policy_version=record["policy_version"],
        config_path=str(record["identity"].get("config_path")),
        counters=record["counters"],
        env_cursor=record["env_cursor"],
        generators=generators,
    )
    _require_digests(step_dir, record["digests"], state_digests(flow_policy, algorithm, state))
    if run_dir is not None:
        log_resume(run_dir, state.step, differences)
    _logger.info("resumed %s: policy version %d", step_dir, state.policy_version)
    return state


def verify_files(step_dir: Path) -> None:
    """Stop unless the folder holds exactly what its manifest says and every required part.

    Raises:
        CheckpointError: lists every part that is missing, damaged or extra.
        MismatchError: the manifest's own text was edited or is of another format.
    """
    problems = [] if disabled("manifest") else verify_manifest(step_dir)
    edited = [p for p in problems if p.kind in MANIFEST_KINDS]
    if edited:
        fields = [
            FieldMismatch(field=f"{p.part} ({p.kind})", ours=p.found, theirs=p.recorded)
            for p in edited
        ]
        raise MismatchError(_what(step_dir), fields, sides=_SIDES)
    named = {problem.part for problem in problems}
    parts = [str(problem) for problem in problems]
    parts += [f"{part}: missing" for part in missing_parts(step_dir) if part not in named]
    if parts:
        raise CheckpointError(f"{step_dir} is damaged or incomplete", parts=parts)


def _restore(
    step_dir: Path, *, flow_policy: FlowPolicy, algorithm: PiRLAlgorithm
) -> Mapping[str, Any]:
    """Restore every part in place; returns the private generators' states.

    Raises:
        CheckpointError: a part does not fit; names it and chains the cause.
        EnvironmentNotReadyError: this machine has too little memory, or no accelerator.
    """
    optimizers = dict(algorithm.get_optimizers())
    if not optimizers:
        raise CheckpointError("the algorithm has no optimiser; make it before loading")
    part = POLICY_WEIGHTS
    try:
        load_model(flow_policy.module, step_dir / part, strict=True)
        part = ALGORITHM_WEIGHTS
        algorithm.load_state_dict(load_file(step_dir / part))
        part = f"{TRAINING_STATE_DIR}/{'|'.join(optimizers)}"
        if not disabled("resume-optimizer"):
            load_optimizer_state(optimizers, step_dir / TRAINING_STATE_DIR)
        part = ALGORITHM_STATE
        algorithm.load_training_state(load_file(step_dir / part))
        part = RNG_FILE
        # Last: everything before may draw random numbers.
        return restore_rng(load_file(step_dir / part))
    except (SafetensorError, OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        unable = machine_error(error)
        if unable is not None:
            raise unable from error
        raise CheckpointError(
            f"{step_dir} does not fit this run", parts=[f"{part}: {error}"]
        ) from error


def _require_digests(step_dir: Path, recorded: Mapping[str, str], live: Mapping[str, str]) -> None:
    skipped = {"optimizer"} if disabled("resume-optimizer") else set[str]()
    # With the manifest check off, altered files must get through: the test that turns it off shows
    # that they would.
    if disabled("manifest"):
        return
    parts = [
        f"{name}: saved {recorded.get(name)}, restored {digest}"
        for name, digest in live.items()
        if name not in skipped and recorded.get(name) != digest
    ]
    if parts:
        raise CheckpointError(f"{step_dir}: the restored state is not the saved one", parts=parts)


def _what(step_dir: Path) -> str:
    return f"cannot resume from {step_dir.parent.name}/{step_dir.name}"
