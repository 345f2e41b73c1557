"""Facts about the simulator that evidence must carry: package version, tasks, digests of assets and states."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pirl.audit.records.validate import Simulator
from pirl.envs import describe_env
from pirl.envs.split import load_split, split_digest
from pirl.journal.fields import file_sha256

if TYPE_CHECKING:
    from lerobot.envs.configs import EnvConfig


def environment_facts(env_cfg: EnvConfig) -> Simulator:
    """Name, version, tasks and digests; the digest of the assets covers every file's path and bytes.

    Raises:
        EnvironmentNotReadyError: LIBERO's assets are not here, or a file of them is not LIBERO's.
    """
    info = describe_env(env_cfg)
    states = {"split": split_digest(load_split(env_cfg.type))}
    if info.kind == "libero":
        from pirl.envs.libero_assets import find_assets
        from pirl.envs.libero_setup import init_state_files

        states |= {f.name: file_sha256(f) for f in init_state_files(str(env_cfg.task))}
        found = find_assets()
        name, package = "LIBERO", "hf-libero"
        assets = {"source": found.source, "git_tree": found.tree}
    else:
        import metaworld

        name, package = "MetaWorld", "metaworld"
        folder = Path(metaworld.__file__).parent / "assets"
        assets = {"source": "the package metaworld", "sha256": folder_digest(folder)}
    return Simulator(
        name=name,
        version=version(package),
        mujoco=version("mujoco"),
        tasks=tuple(info.task_names),
        assets=assets,
        initial_states=states,
        reset_mode=info.reset_mode,
    )


def folder_digest(folder: Path) -> str:
    """SHA-256 over relative path and content of every file below `folder`."""
    digest = hashlib.sha256()
    for path in sorted(
        p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts
    ):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(bytes.fromhex(file_sha256(path)))
    return digest.hexdigest()
