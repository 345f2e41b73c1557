"""`policy.path`: start from the policy config of a checkpoint folder or of a hub repository.

Owns the translation of what LeRobot's `PreTrainedConfig.from_pretrained` may raise. A folder
needs no network. Refuses to load weights: `pirl.contract` does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import draccus
import httpx
import lerobot.policies  # noqa: F401  # pyright: ignore[reportUnusedImport] (registers types)
from draccus.utils import DraccusException
from huggingface_hub.constants import CONFIG_NAME
from huggingface_hub.errors import (
    HFValidationError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from lerobot.configs.policies import PreTrainedConfig

from pirl.config.jsonfile import JsonObject
from pirl.config.strictjson import read_json_object
from pirl.errors import ConfigError, EnvironmentNotReadyError, FieldError


def resolve_policy_path(section: dict[str, Any]) -> JsonObject:
    """The policy section with the checkpoint's config underneath and `pretrained_path` set.

    Args:
        section: the raw `policy` section, with `path` and whatever it overrides.

    Raises:
        ConfigError: `path` beside `type`, not a text, or nothing a policy config can be read from.
        EnvironmentNotReadyError: a hub repository that cannot be reached from here.
    """
    rest = dict(section)
    path = rest.pop("path")
    if not isinstance(path, str) or not path.strip() or "\0" in path:
        raise _bad_path(path, "a checkpoint folder or a hub repository", "set policy.path=FOLDER")
    if "type" in rest:
        raise _bad_path(
            str(path),
            "no policy.type beside it: the checkpoint says its type",
            "remove policy.type",
        )
    revision = rest.get("pretrained_revision")
    base = _read(str(path), revision=str(revision) if isinstance(revision, str) else None)
    encoded: dict[str, Any] = draccus.encode(base, PreTrainedConfig)
    return JsonObject(encoded | rest | {"pretrained_path": Path(path).as_posix()})


def _read(path: str, *, revision: str | None) -> PreTrainedConfig:
    is_folder = Path(path).is_dir()
    try:
        if is_folder and (Path(path) / CONFIG_NAME).exists():
            # LeRobot reads it without any bound.
            read_json_object(Path(path) / CONFIG_NAME)
        return PreTrainedConfig.from_pretrained(path, revision=revision)
    except HFValidationError as error:
        raise _bad_path(
            path, "an existing folder, or a hub repository owner/name", "check the path"
        ) from error
    except (DraccusException, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _bad_path(
            path, f"a policy config of this LeRobot ({error})", "check config.json there"
        ) from error
    except (OSError, httpx.HTTPError) as error:
        if is_folder:
            raise _bad_path(
                path, "a folder with the config.json of a policy", "point at pretrained_model/"
            ) from error
        if _is_answer(error):
            raise _bad_path(
                path,
                "an existing folder, or a hub repository that exists and holds config.json",
                "check the path, its spelling and pretrained_revision; log in if it is private",
            ) from error
        raise EnvironmentNotReadyError(
            f"policy.path = {path!r} is no folder here and the hub cannot be reached",
            remedy=f"download {path} where there is a network and set policy.path to the folder",
        ) from error


def _is_answer(error: BaseException) -> bool:
    """Whether the hub answered "no such thing", as opposed to not answering."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__
    if any(isinstance(link, LocalEntryNotFoundError) for link in chain):
        return False
    answers = (RepositoryNotFoundError, RemoteEntryNotFoundError, RevisionNotFoundError)
    return any(isinstance(link, answers) for link in chain)


def _bad_path(value: object, expected: str, fix: str) -> ConfigError:
    return ConfigError([FieldError(field="policy.path", value=value, expected=expected, fix=fix)])
