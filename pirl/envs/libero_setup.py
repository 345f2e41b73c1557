"""Everything LIBERO needs before its first import: a config file, so it never asks, and its assets.

Owns `LIBERO_CONFIG_PATH`. `pirl.envs.libero_assets` finds the assets. Refuses to know tasks and simulation. Read
`pirl.envs.libero` next.

hf-libero asks a question on standard input when it is imported without `config.yaml` in
`LIBERO_CONFIG_PATH` (default `~/.libero`). pirl writes that file into a folder of its own, named
after the installed package, and leaves `~/.libero` alone. A `LIBERO_CONFIG_PATH` that the user set
is used as it is; its file is only written when it is missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import logging
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

from pirl.errors import EnvironmentNotReadyError
from pirl.files import home_folder

CONFIG_VARIABLE = "LIBERO_CONFIG_PATH"
_logger = logging.getLogger(__name__)


@contextlib.contextmanager
def quiet_stdout() -> Generator[None]:
    """Send what LIBERO and robosuite print to standard error: standard output is for results."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def prepare_config() -> Path:
    """Make `import libero` silent; returns the config file it will read.

    Raises:
        EnvironmentNotReadyError: hf-libero is missing, the config folder cannot be written, or an
            existing config names a package that is gone.
    """
    root = package_root()
    chosen = os.environ.get(CONFIG_VARIABLE)
    folder = Path(chosen).expanduser() if chosen else _private_folder(root)
    config = folder / "config.yaml"
    wanted = _config_text(root)
    if config.exists() and (chosen or config.read_bytes() == wanted.encode()):
        _check_existing(config)
    else:
        if config.exists():
            _logger.warning("rewriting %s: it did not match the installed hf-libero", config.name)
        _write(config, wanted)
    os.environ[CONFIG_VARIABLE] = str(folder)
    return config


def init_state_files(suite: str) -> list[Path]:
    """The files with the initial states of a suite, sorted by name.

    Raises:
        EnvironmentNotReadyError: the installed package has none for this suite.
    """
    files = sorted((package_root() / "init_files" / suite).glob("*.pruned_init"))
    if not files:
        raise EnvironmentNotReadyError(
            f"hf-libero has no initial states for {suite}", remedy="reinstall 'pirl[libero]'"
        )
    return files


def package_root() -> Path:
    """Folder of the installed `libero.libero`, found without importing it.

    Raises:
        EnvironmentNotReadyError: hf-libero is not installed.
    """
    spec = importlib.util.find_spec("libero")
    places = list(spec.submodule_search_locations or []) if spec else []
    if not places or not (Path(places[0]) / "libero").is_dir():
        raise EnvironmentNotReadyError(
            "LIBERO (hf-libero) is not installed", remedy="pip install 'pirl[libero]'"
        )
    return Path(places[0]) / "libero"


def _private_folder(root: Path) -> Path:
    home, chosen = home_folder(), os.environ.get("XDG_CACHE_HOME")
    if home is None and not chosen:
        raise EnvironmentNotReadyError(
            "this user has no home folder for LIBERO's config",
            remedy=f"set HOME, XDG_CACHE_HOME or {CONFIG_VARIABLE} to a folder that can be written",
        )
    cache = Path(chosen) if chosen else cast("Path", home) / ".cache"
    # One folder per installed package: two virtual environments must not fight over one file.
    return cache / "pirl" / f"libero-{hashlib.sha256(str(root).encode()).hexdigest()[:12]}"


def _config_text(root: Path) -> str:
    # JSON is YAML; the keys are those hf-libero writes itself.
    paths = {
        "assets": root / "assets",
        "bddl_files": root / "bddl_files",
        "benchmark_root": root,
        "datasets": root.parent / "datasets",
        "init_states": root / "init_files",
    }
    return json.dumps({key: str(path) for key, path in paths.items()}, indent=1) + "\n"


def _write(config: Path, text: str) -> None:
    """Write atomically: several workers may get here at once."""
    temporary = config.with_name(f"config.yaml.{os.getpid()}")
    try:
        config.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(config)
    except OSError as error:
        raise EnvironmentNotReadyError(
            f"LIBERO's config cannot be written: {error}",
            remedy=f"set {CONFIG_VARIABLE} to a folder that can be written",
        ) from error


def _check_existing(config: Path) -> None:
    # Late: whoever has no LIBERO needs no YAML.
    from pirl.config.yamlfile import read_yaml

    try:
        content = read_yaml(config)
    except (OSError, ValueError) as error:
        raise EnvironmentNotReadyError(
            f"LIBERO's config {config} cannot be read: {error}",
            remedy=f"correct that file, or unset {CONFIG_VARIABLE} to let pirl write its own",
        ) from error
    paths: dict[str, Any] = content if isinstance(content, dict) else {}
    for key in ("bddl_files", "init_states"):
        if not Path(str(paths.get(key))).is_dir():
            raise EnvironmentNotReadyError(
                f"LIBERO's config {config} names {key}={paths.get(key)!r}, which is no folder",
                remedy=f"correct that file, or unset {CONFIG_VARIABLE} to let pirl write its own",
            )
