"""What an evaluation was of: policy bytes, environment, split, sampler, seed, versions; no machine path.

Owns the `identity` block of `eval_info.json`. Refuses to know results. Read `pirl.evaluation.folder` next.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pirl.config.identity import ConfigIdentity, config_path_identity
from pirl.config.train import encode_config
from pirl.contract.digests import architecture_digest, weights_digest
from pirl.envs.split import split_digest
from pirl.evaluation.checkpoint import Evaluation
from pirl.journal.environment import package_versions
from pirl.journal.fields import file_sha256

_NOT_DECISIVE = ("max_parallel_tasks", "disable_env_checker")
"""Fields of LeRobot's environment config that no episode depends on."""


def describe(
    evaluation: Evaluation, *, policy_path: str | Path, config: ConfigIdentity
) -> dict[str, Any]:
    """The identity of an evaluation; `env`, `split` and `seed` decide which episodes it ran."""
    policy, protocol = evaluation.policy, evaluation.protocol
    env: dict[str, Any] = dict(encode_config(evaluation.cfg)["env"])
    return {
        "policy": {
            "path": _name(policy_path),
            "weights_sha256": weights_digest(policy.module.state_dict()),
            "architecture_sha256": architecture_digest(policy),
            "files_sha256": _files(Path(policy_path)),
        },
        "config": {"path": config.path, "sha256": config.hash},
        "env": {name: value for name, value in env.items() if name not in _NOT_DECISIVE},
        "split": {
            "label": evaluation.split.label,
            "sha256": split_digest(evaluation.split),
        },
        "sampler": {
            "denoising_steps": policy.spec.denoising_steps,
            "n_action_steps": policy.spec.executed_steps,
            "chunk_size": policy.spec.chunk_size,
            "action_mode": policy.spec.action_mode,
            "noise": "start only",
        },
        "seed": protocol.seed,
        "episodes_per_task": protocol.episodes_per_task,
        "device": str(policy.device),
        "versions": package_versions(),
    }


def _name(policy_path: str | Path) -> str:
    path = Path(policy_path)
    return config_path_identity(path) if path.exists() else str(policy_path)


def _files(folder: Path) -> dict[str, str]:
    """Digest of each file of a local checkpoint; a hub checkpoint is known by its weights."""
    if not folder.is_dir():
        return {}
    return {path.name: file_sha256(path) for path in sorted(folder.iterdir()) if path.is_file()}
