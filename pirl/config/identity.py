"""Identity of a config: its path and the hash of what it resolves to.

Owns which fields are host-local (they may differ between learner and actors) and the canonical
text that is hashed. Refuses to know how identities are compared: that is `pirl.transport.identity`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pirl.config.sections import encode_config

HOST_LOCAL_FIELDS = (
    "output_dir",
    "dataset.root",
    "runtime.host",
    "runtime.port",
    "runtime.token",
    "runtime.token_file",
    "runtime.tls_cert",
    "runtime.tls_key",
    "runtime.tls_ca",
    "runtime.insecure",
    "runtime.version_timeout_s",
    "runtime.replica_timeout_s",
    "runtime.replacement_timeout_s",
    "runtime.keep_checkpoints",
    "runtime.keep_checkpoints_every",
    "runtime.pipeline",
    "runtime.learner_device",
    "runtime.actor_device",
    "runtime.actor_devices",
    "runtime.trackers",
    "runtime.video_every",
    "policy.device",
    "reward_model.device",
    "resume",
    "checkpoint_path",
    "job",
    "wandb",
)
"""Fields (a section counts with everything in it) on which two sides of one run may differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigIdentity:
    """What learner and actors must agree on before anything is accepted."""

    path: str
    """Normalised path, see `config_path_identity`; never absolute."""
    hash: str
    """SHA-256 of the canonical config, hex."""


def canonical_json(cfg: Any) -> str:
    """The resolved config without host-local fields: ASCII, sorted keys, no blanks, floats by
    repr.

    Any: `PiRLTrainConfig` of `pirl.config.train` or of `pirl.config.lerobot_fields`; equal for both.
    """
    return canonical_text(encode_config(cfg))


def canonical_text(tree: dict[str, Any]) -> str:
    """`canonical_json` of a config that is plain JSON values already; `tree` is left as it is."""
    tree = deepcopy(tree)
    for name in HOST_LOCAL_FIELDS:
        _drop(tree, name.split("."))
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False)


def config_hash(cfg: Any) -> str:
    """SHA-256 of `canonical_json`, hex."""
    return hashlib.sha256(canonical_json(cfg).encode("ascii")).hexdigest()


def config_path_identity(path: Path) -> str:
    """A name of the file that both sides derive alike and that shows no absolute path.

    Inside the current directory: the path relative to it, with forward slashes. Outside: the file
    name and a digest of the absolute path, `train_config.json@0123456789ab`. Symbolic links are
    not followed (`checkpoints/last` moves while learner and actors start), except where `..` has
    to be resolved.
    """
    absolute = Path.cwd() / path
    if ".." in absolute.parts:
        absolute = absolute.resolve()
    absolute = Path(os.path.abspath(absolute))  # noqa: PTH100  (Path.resolve would follow links)
    if absolute.is_relative_to(Path.cwd()):
        return absolute.relative_to(Path.cwd()).as_posix()
    digest = hashlib.sha256(absolute.as_posix().encode()).hexdigest()
    return f"{absolute.name}@{digest[:12]}"


def _drop(tree: dict[str, Any], parts: Sequence[str]) -> None:
    node: Any = tree
    for part in parts[:-1]:
        node = node.get(part)
        if not isinstance(node, dict):
            return
    node.pop(parts[-1], None)
