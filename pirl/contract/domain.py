"""The embodiment that a checkpoint was trained for, read from its saved preprocessor without torch.

Owns the reading of `policy_preprocessor.json`. Read `pirl.contract.processors` for how it is written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pirl.config.strictjson import read_json_object
from pirl.errors import CheckpointError, EnvironmentNotReadyError

PREPROCESSOR_FILE = "policy_preprocessor.json"
"""LeRobot's name of it."""

_DOMAIN_STEP = "xvla_add_domain_id"
"""LeRobot's registry name of the step that adds the domain id."""


def domain_id_of(policy_config: Any) -> int:
    """Embodiment id of the starting checkpoint, read from its saved preprocessor; 0 without one.

    Raises:
        CheckpointError: the saved preprocessor is not readable, or its id is outside `num_domains`.
    """
    file = None
    if policy_config.pretrained_path is not None:
        file = _preprocessor_file(policy_config)
    if file is None:
        return 0
    try:
        steps = read_json_object(file)["steps"]
        ids = [
            int(step["config"]["domain_id"])
            for step in steps
            if step.get("registry_name") == _DOMAIN_STEP
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{file} is not a LeRobot preprocessor", parts=[str(error)]
        ) from error
    domain_id = ids[-1] if ids else 0
    if not 0 <= domain_id < policy_config.num_domains:
        raise CheckpointError(
            f"{file}: domain_id = {domain_id}, expected 0..{policy_config.num_domains - 1}"
        )
    return domain_id


def _preprocessor_file(policy_config: Any) -> Path | None:
    source = str(policy_config.pretrained_path)
    if Path(source).is_dir():
        file = Path(source) / PREPROCESSOR_FILE
        return file if file.is_file() else None
    # Only now: a local folder needs no network stack.
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    try:
        return Path(
            hf_hub_download(source, PREPROCESSOR_FILE, revision=policy_config.pretrained_revision)
        )
    except EntryNotFoundError as error:
        # "Not in the cache" is no proof that the hub has no such file.
        if not isinstance(error, LocalEntryNotFoundError):
            return None
        raise _unreachable(source, error) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise _unreachable(source, error) from error


def _unreachable(source: str, error: Exception) -> EnvironmentNotReadyError:
    return EnvironmentNotReadyError(
        f"{PREPROCESSOR_FILE} of {source!r} cannot be fetched: {first_line(error)}",
        remedy="make the hub reachable, or set policy.pretrained_path to a local folder",
    )


def first_line(error: BaseException) -> str:
    """What an error says, up to its first line break."""
    return str(error).strip().split("\n", 1)[0]
