"""Facts about the simulator that evidence must carry: package version, tasks, digests of assets and states."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pirl.envs import describe_env
from pirl.envs.split import load_split, split_digest

if TYPE_CHECKING:
    from lerobot.envs.configs import EnvConfig


def environment_facts(env_cfg: EnvConfig) -> dict[str, Any]:
    """Name, version, tasks and digests; the assets digest covers every file's path and bytes."""
    info = describe_env(env_cfg)
    states = {"split": split_digest(load_split(env_cfg.type))}
    if info.kind == "libero":
        from pirl.envs.libero_setup import init_state_files, prepare_assets

        states |= {f.name: file_digest(f) for f in init_state_files(str(env_cfg.task))}
        name, package, assets = "LIBERO", "hf-libero", folder_digest(prepare_assets())
    else:
        import metaworld

        assets = folder_digest(Path(metaworld.__file__).parent / "assets")
        name, package = "MetaWorld", "metaworld"
    return {
        "name": name,
        "version": version(package),
        "mujoco": version("mujoco"),
        "tasks": list(info.task_names),
        "assets": assets,
        "initial_states": states,
        "reset_mode": info.reset_mode,
    }


def folder_digest(folder: Path) -> str:
    """SHA-256 over relative path and content of every file below `folder`."""
    digest = hashlib.sha256()
    for path in sorted(
        p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts
    ):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(bytes.fromhex(file_digest(path)))
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
