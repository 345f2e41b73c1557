"""Where the weights of an X-VLA policy come from: a folder or a hub id, and nothing by accident.

Owns finding, comparing and loading a checkpoint. Refuses to fall back to random weights and to load
weights under another geometry than the one they were trained with. Read `pirl.policies.xvla.build` next.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import draccus
from huggingface_hub import hf_hub_download
from huggingface_hub.constants import CONFIG_NAME, SAFETENSORS_SINGLE_FILE
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError
from lerobot.configs import PreTrainedConfig
from lerobot.policies.xvla.configuration_xvla import XVLAConfig
from lerobot.policies.xvla.modeling_xvla import XVLAPolicy
from safetensors import SafetensorError

from pirl.config.strictjson import read_json_object
from pirl.config.weights_header import read_header, wrapped_message, wrapper_of
from pirl.errors import (
    CheckpointError,
    EnvironmentNotReadyError,
    FieldMismatch,
    MismatchError,
)
from pirl.foreign import machine_error
from pirl.resources import folder_or_id

GEOMETRY = (
    "action_mode",
    "chunk_size",
    "depth",
    "dim_time",
    "florence_config",
    "hidden_size",
    "len_soft_prompts",
    "max_action_dim",
    "max_len_seq",
    "max_state_dim",
    "mlp_ratio",
    "num_domains",
    "num_heads",
    "resize_imgs_with_padding",
    "tokenizer_max_length",
    "use_hetero_proj",
    "use_proprio",
)
"""Fields that change what trained weights compute, seen in tensor shapes or not: a chunk of another
length, for one, moves every other token to another position."""

_SHOWN, _LINE = 10, 400
"""Tensors or lines that an error shows, and characters of a line: a policy has hundreds of names."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def load_policy(config: XVLAConfig) -> XVLAPolicy:
    """Stock policy with the weights of `config.pretrained_path`, strict keys, on `config.device`.

    Raises:
        EnvironmentNotReadyError: no such folder, the hub does not answer, or the machine has no
            memory or no accelerator for it.
        CheckpointError: a file is missing or damaged, names and shapes do not fit, or a weight is not
            finite.
        MismatchError: the config describes another geometry than the checkpoint's own.
    """
    source, revision = folder_or_id(str(config.pretrained_path)), config.pretrained_revision
    # Weights first and early: X-VLA would otherwise build 0.9 B random parameters to learn of it.
    weights = _find(source, SAFETENSORS_SINGLE_FILE, revision=revision)
    _refuse_wrapped(source, weights)
    _compare(config, _find(source, CONFIG_NAME, revision=revision))
    try:
        policy = XVLAPolicy.from_pretrained(source, config=config, revision=revision, strict=True)
    except SafetensorError as error:
        raise CheckpointError(f"{source}: damaged weights file", parts=[str(error)]) from error
    except RuntimeError as error:
        unable = machine_error(error)
        if unable is not None:
            raise unable from error
        lines = [_shortened(line.strip()) for line in str(error).splitlines()]
        fits = "state_dict" not in str(error)
        what = "policy cannot be built" if fits else "weights do not fit the policy config"
        raise CheckpointError(f"{source}: the {what}", parts=lines[:_SHOWN]) from error
    _require_finite(policy, weights)
    return policy


def _require_finite(policy: XVLAPolicy, file: Path) -> None:
    """Refuse weights that a diverged or interrupted training left."""
    wrong = [
        f"{name}: {int((~tensor.isfinite()).sum())} of {tensor.numel()} values"
        for name, tensor in policy.state_dict().items()
        if tensor.is_floating_point() and not bool(tensor.isfinite().all())
    ]
    if wrong:
        more = [f"and {len(wrong) - _SHOWN} more tensors"] if len(wrong) > _SHOWN else []
        raise CheckpointError(
            f"{file}: weights that are not finite; use an earlier checkpoint of that training",
            parts=[*wrong[:_SHOWN], *more],
        )


def _refuse_wrapped(source: str, file: Path) -> None:
    prefix = wrapper_of(read_header(file))
    if prefix is not None:
        expected, fix = wrapped_message(source, prefix)
        raise CheckpointError(f"{source}: expected {expected}", parts=[f"fix: {fix}"])


def _shortened(line: str) -> str:
    return line if len(line) <= _LINE else f"{line[:_LINE]}..."


def _find(source: str, name: str, *, revision: str | None) -> Path:
    if Path(source).is_dir():
        file = Path(source) / name
        if not file.is_file():
            raise CheckpointError(f"{source}: no {name} in this folder")
        return file
    if not _HUB_ID.fullmatch(source):
        raise EnvironmentNotReadyError(
            f"policy.pretrained_path = {source!r}: no such folder",
            remedy="check the path, relative to the working directory, or give a hub id OWNER/NAME",
        )
    try:
        return Path(hf_hub_download(source, name, revision=revision))
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise EnvironmentNotReadyError(
            f"policy.pretrained_path = {source!r}: no such folder, and {name} is not to be had "
            f"from the hub: {str(error).strip().split(chr(10), 1)[0]}",
            remedy="make the hub reachable, or download the checkpoint and give its folder",
        ) from error


def _compare(config: XVLAConfig, file: Path) -> None:
    try:
        saved = read_json_object(file)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is not a policy config", parts=[str(error)]) from error
    if isinstance(saved.get("action_mode"), str):
        saved["action_mode"] = saved["action_mode"].lower()
    ours: dict[str, Any] = json.loads(json.dumps(draccus.encode(config, PreTrainedConfig)))
    wrong = [
        FieldMismatch(field=f"policy.{name}", ours=ours[name], theirs=saved[name])
        for name in GEOMETRY
        if name in saved and saved[name] != ours[name]
    ]
    if wrong:
        raise MismatchError(f"policy config (ours) and {file} (theirs)", wrong)
