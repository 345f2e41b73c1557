"""`policy.path`: start from the policy config of a checkpoint folder or of a hub repository.

Owns finding and reading that config. A folder needs no network. Refuses to load weights: its kind does
(`pirl.contract.registry`). Needs no LeRobot.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import draccus
from draccus.utils import DraccusException

from pirl.config.jsonfile import JsonObject
from pirl.config.kinds import admit, policy_facts
from pirl.config.lerobot_fields import PreTrainedConfig
from pirl.config.strictjson import read_json_object
from pirl.errors import ConfigError, EnvironmentNotReadyError, FieldError
from pirl.resources import locate

CONFIG_NAME = "config.json"
"""LeRobot's name of a policy's config."""


LOADED_AS: dict[str, Any] = {
    "dtype": "float32",
    "use_amp": False,
    "use_peft": False,
    "push_to_hub": False,
}
"""Settings of the training that made a checkpoint, which pirl does not take over: it casts weights when it
loads them (`algorithm.md` D10), reads whole weights only, and uploads nothing by itself.
"""


def resolve_policy_path(section: dict[str, Any]) -> JsonObject:
    """The policy section with the checkpoint's config underneath and `pretrained_path` set.

    Args:
        section: the raw `policy` section, with `path` and whatever it overrides.

    Raises:
        ConfigError: `path` beside `type`, not a text, or nothing a policy config can be read from.
        CheckpointError: a file beside the config is damaged.
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
    revision = revision if isinstance(revision, str) else None
    base = _read(_find(path, revision=revision), path, revision=revision)
    base |= {name: value for name, value in LOADED_AS.items() if name in base}
    return JsonObject(base | rest | {"pretrained_path": Path(path).as_posix()})


def _find(path: str, *, revision: str | None) -> Path:
    folder = locate(path)
    if not folder.is_dir():
        return _download(path, revision=revision)
    file = folder / CONFIG_NAME
    if not file.is_file():
        raise _bad_path(
            path, "a folder with the config.json of a policy", "point at pretrained_model/"
        )
    return file


def _read(file: Path, path: str, *, revision: str | None) -> dict[str, Any]:
    """The policy config in `file` with its defaults; as it is when its type is one that only LeRobot knows."""
    try:
        values = read_json_object(file)
        if not isinstance(values.get("type"), str):
            raise _no_type(path)
        admit({"policy": values})
        if values["type"] not in PreTrainedConfig.get_known_choices():
            if values["type"] in PreTrainedConfig.OTHER_CHOICES:
                return values
            raise ValueError(f"LeRobot has no policy type {values['type']!r}")
        policy: Any = draccus.decode(PreTrainedConfig, values)
        policy.pretrained_path, policy.pretrained_revision = Path(path), revision
        policy_facts(values["type"]).settle(policy)
        return draccus.encode(policy, PreTrainedConfig)
    except OSError as error:
        raise _bad_path(path, f"a readable {CONFIG_NAME}", "check its permissions") from error
    except (DraccusException, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _bad_path(
            path,
            f"a policy config of this LeRobot ({error})",
            f"take out of {CONFIG_NAME} there what this LeRobot does not know",
        ) from error


def _no_type(path: str) -> ConfigError:
    return _bad_path(
        path,
        f'a {CONFIG_NAME} that LeRobot wrote: this one has no "type"',
        f'write "type": "xvla" into {CONFIG_NAME} if LeRobot\'s X-VLA was saved without it; of a repository of'
        " another library (model_type) take LeRobot's own copy, for instance lerobot/xvla-libero",
    )


def _download(path: str, *, revision: str | None) -> Path:
    # Only now: most configs name a folder or nothing, and the hub's client brings a network stack.
    import httpx
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(hf_hub_download(repo_id=path, filename=CONFIG_NAME, revision=revision))
    except HFValidationError as error:
        raise _bad_path(
            path, "an existing folder, or a hub repository owner/name", "check the path"
        ) from error
    except (OSError, httpx.HTTPError) as error:
        _refuse_download(path, error)


def _refuse_download(path: str, error: Exception) -> NoReturn:
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
    from huggingface_hub.errors import (
        LocalEntryNotFoundError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

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
