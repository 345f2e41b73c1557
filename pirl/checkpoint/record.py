"""What a checkpoint says about the run that wrote it, and in what a resuming process differs.

Owns `run_state.json`, the list of fields that may change on resume and `resume_log.jsonl`. Refuses
to know weights. Read `pirl.checkpoint.load` next.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch

from pirl import __version__
from pirl.algorithm.demonstrations import Demonstrations
from pirl.checkpoint.layout import RUN_STATE
from pirl.checkpoint.manifest import canonical
from pirl.checkpoint.state import RunState
from pirl.config.identity import canonical_json
from pirl.config.strictjson import read_json
from pirl.config.train import PiRLTrainConfig
from pirl.contract.digests import architecture_digest
from pirl.contract.flow_policy import FlowPolicy
from pirl.errors import CheckpointError, FieldMismatch
from pirl.files import Appender

RECORD_VERSION = 1
"""Version of the fields of `run_state.json`."""

LIBRARIES = ("lerobot", "numpy", "transformers", "safetensors")
"""Their versions decide the bits of a run, so a resume needs the same ones."""

RESUME_LOG = "resume_log.jsonl"

DEMONSTRATIONS = "demonstrations"
"""What a run imitates, by its content: in the record of a run that imitates, and in no other."""

_FIELDS: Mapping[str, type] = {
    "run_id": str,
    "step": int,
    "policy_version": int,
    "counters": dict,
    "env_cursor": dict,
    "identity": dict,
    "config": dict,
    "policy": dict,
    "versions": dict,
    "digests": dict,
}

MAY_CHANGE = (
    "job_name",
    "log_freq",
    "save_freq",
    "parallelism.dp_replicate",
    "parallelism.dp_shard",
    "pirl.recompute_activations",
    "runtime.checkpoint_every_updates",
    "runtime.total_updates",
)
"""Fields that a resume may change: length, logging, cadence, and, with which the run goes on to
rounding instead of to the bit, the number of learner processes and what is computed again.
Host-local ones (job, wandb, devices, addresses) are not part of a config's identity at all;
everything else decides what the run computes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeDifferences:
    """Fields in which two configs differ; `ours` is the new value, `theirs` the old one."""

    allowed: tuple[FieldMismatch, ...]
    forbidden: tuple[FieldMismatch, ...]


def resume_differences(old_cfg: PiRLTrainConfig, new_cfg: PiRLTrainConfig) -> ResumeDifferences:
    """Sort the fields in which two configs differ by whether a resume may change them.

    Host-local fields (`pirl.config.identity`) are ignored.
    """
    return _differences(config_tree(old_cfg), config_tree(new_cfg))


def config_tree(cfg: PiRLTrainConfig) -> dict[str, Any]:
    """The config's canonical form, without host-local fields."""
    return json.loads(canonical_json(cfg))


@cache
def library_versions() -> Mapping[str, str]:
    """Versions that decide the bits of a run; Python without its patch level."""
    python = ".".join(platform.python_version_tuple()[:2])
    # torch's own string names the build too (2.11.0+cpu and 2.11.0+cu130 differ in their bits).
    own = {"python": python, "pirl": __version__, "torch": str(torch.__version__)}
    return own | {name: version(name) for name in LIBRARIES}


def describe_run(
    state: RunState,
    *,
    cfg: PiRLTrainConfig,
    flow_policy: FlowPolicy,
    demonstrations: Demonstrations | None,
    digests: Mapping[str, str],
) -> dict[str, Any]:
    """The content of `run_state.json`."""
    config = config_tree(cfg)
    shown = {} if demonstrations is None else {DEMONSTRATIONS: dict(demonstrations.facts)}
    return {
        "record_version": RECORD_VERSION,
        "run_id": state.run_id,
        "step": state.step,
        "policy_version": state.policy_version,
        "counters": dict(state.counters),
        "env_cursor": dict(state.env_cursor),
        "identity": _identity(config) | {"config_path": state.config_path},
        "config": config,
        "policy": _describe_policy(flow_policy),
        "versions": dict(library_versions()),
        "digests": dict(digests),
        **shown,
    }


def read_record(step_dir: Path) -> dict[str, Any]:
    """`run_state.json` of a step folder.

    Raises:
        CheckpointError: it is missing, not JSON, of another version, or a field is missing or of
            the wrong type.
    """
    problem = f"{step_dir}: cannot read the run's record"
    try:
        content = read_json(step_dir / RUN_STATE)
    except (OSError, ValueError) as error:
        raise CheckpointError(problem, parts=[f"{RUN_STATE}: {error}"]) from error
    record = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
    if record.get("record_version") != RECORD_VERSION:
        found = record.get("record_version")
        part = f"{RUN_STATE}: record_version is {found!r}, expected {RECORD_VERSION}"
        raise CheckpointError(problem, parts=[part])
    missing = [name for name in _FIELDS if name not in record]
    if missing:
        raise CheckpointError(problem, parts=[f"{RUN_STATE}: no field {name}" for name in missing])
    wrong = [name for name, kind in _FIELDS.items() if type(record[name]) is not kind]
    if wrong:
        parts = [f"{RUN_STATE}: {name} is no {_FIELDS[name].__name__}" for name in wrong]
        raise CheckpointError(problem, parts=parts)
    return record


def compare_run(
    record: Mapping[str, Any],
    *,
    cfg: PiRLTrainConfig,
    flow_policy: FlowPolicy,
    demonstrations: Demonstrations | None,
) -> ResumeDifferences:
    """In what this process differs from the run that wrote `record`.

    Compared: every config field, recipe, variant and config hash as recorded beside the config (an
    edited record contradicts itself), the policy's architecture and action space, library versions, the
    content of the demonstrations.
    """
    now = config_tree(cfg)
    config = _differences(record["config"], now)
    identity = record["identity"]
    # The hash of this process differs after an allowed change; what must fit is the recorded pair.
    fitting = {
        "config_hash": _hash(record["config"]),
        "config_path": identity.get("config_path"),
    }
    pairs = (
        ("identity", identity, _identity(now) | fitting),
        ("policy", record["policy"], _describe_policy(flow_policy)),
        ("versions", record["versions"], dict(library_versions())),
        (
            DEMONSTRATIONS,
            record.get(DEMONSTRATIONS),
            None if demonstrations is None else dict(demonstrations.facts),
        ),
    )
    rest = [field for name, old, new in pairs for field in _compare(old, new, prefix=name)]
    return ResumeDifferences(allowed=config.allowed, forbidden=(*config.forbidden, *rest))


def log_resume(run_dir: Path, step: int, differences: ResumeDifferences) -> Path:
    """Append one line to the run's `resume_log.jsonl`: when, from where, with which changes."""
    line = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "step": step,
        "versions": dict(library_versions()),
        "changed": [
            {"field": field.field, "checkpoint": field.theirs, "now": field.ours}
            for field in differences.allowed
        ],
    }
    path = run_dir / RESUME_LOG
    with Appender(path) as log:
        log.write((json.dumps(line) + "\n").encode())
        log.sync()
    return path


def _identity(config: Mapping[str, Any]) -> dict[str, Any]:
    variant = config["pirl"]["variant"]
    return {"recipe": config["recipe"], "variant": variant, "config_hash": _hash(config)}


def _hash(config: Mapping[str, Any]) -> str:
    """`pirl.config.identity.config_hash` of a config's canonical form."""
    return hashlib.sha256(canonical(config).encode()).hexdigest()


def _describe_policy(flow_policy: FlowPolicy) -> dict[str, Any]:
    spec = flow_policy.spec
    return {
        "architecture": architecture_digest(flow_policy),
        "action_mode": spec.action_mode,
        "chunk_size": spec.chunk_size,
        "executed_steps": spec.executed_steps,
        "model_dim": spec.model_dim,
        "env_dim": spec.env_dim,
        "denoising_steps": spec.denoising_steps,
        "executed_dims": list(spec.executed_dims),
        "hidden_gripper_dims": list(spec.hidden_gripper_dims),
        "group_of_dim": list(spec.group_of_dim),
    }


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> ResumeDifferences:
    found = _compare(old, new, prefix="")
    allowed = tuple(field for field in found if field.field in MAY_CHANGE)
    forbidden = tuple(field for field in found if field.field not in MAY_CHANGE)
    return ResumeDifferences(allowed=allowed, forbidden=forbidden)


def _compare(old: Any, new: Any, *, prefix: str) -> list[FieldMismatch]:
    """Differing leaves by dotted name; a field that one side lacks is shown as None."""
    if isinstance(old, dict) and isinstance(new, dict):
        mine, theirs = cast("dict[str, Any]", new), cast("dict[str, Any]", old)
        found: list[FieldMismatch] = []
        for key in sorted(mine.keys() | theirs.keys()):
            name = f"{prefix}.{key}" if prefix else key
            found.extend(_compare(theirs.get(key), mine.get(key), prefix=name))
        return found
    return [] if old == new else [FieldMismatch(field=prefix, ours=new, theirs=old)]
