"""The embodiment that a checkpoint was trained for, read from its saved preprocessor without torch.

Owns fetching `policy_preprocessor.json`; `pirl.policies.xvla.starting` reads it. Read
`pirl.policies.xvla.processors` for how it is written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pirl.errors import ConfigError, EnvironmentNotReadyError
from pirl.policies.xvla.starting import PREPROCESSOR_FILE as PREPROCESSOR_FILE
from pirl.policies.xvla.starting import no_domain_id, saved_domain_id
from pirl.resources import folder_or_id


def domain_id_of(policy_config: Any) -> int:
    """Embodiment id of the starting checkpoint, read from its saved preprocessor; 0 without a checkpoint.

    Raises:
        CheckpointError: the saved preprocessor is not readable, or its id is outside `num_domains`.
        ConfigError: `num_domains` is more than one, and the checkpoint does not say which one it is for.
    """
    if policy_config.pretrained_path is None:
        return 0
    file = _preprocessor_file(policy_config)
    domain_id = None if file is None else saved_domain_id(file, policy_config.num_domains)
    if domain_id is None and policy_config.num_domains > 1:
        source = str(policy_config.pretrained_path)
        raise ConfigError([no_domain_id(source, policy_config.num_domains)], source="policy")
    return domain_id or 0


def _preprocessor_file(policy_config: Any) -> Path | None:
    source = folder_or_id(policy_config.pretrained_path)
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
