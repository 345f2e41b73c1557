"""What a run stood on: code, package versions, machine, threads. No host, user or path is recorded.

Owns `metadata/environment.json` and `metadata/source.json`. Refuses to know configs and gates. Read
`pirl.audit.bundle` next.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

import psutil

from pirl import doors
from pirl.errors import EvidenceError
from pirl.journal.fields import file_sha256, read_object, text
from pirl.resources import SHIPPED

PACKAGES = (
    "pirl", "lerobot", "torch", "numpy", "transformers", "safetensors", "draccus", "grpcio",
    "protobuf", "gymnasium", "mujoco", "metaworld", "hf-libero", "robosuite", "prefect", "fastapi",
    "mlflow", "dvc", "matplotlib", "imageio-ffmpeg", "scipy",
)  # fmt: skip

VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MUJOCO_GL", "PYOPENGL_PLATFORM",
    "HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM", "CUDA_VISIBLE_DEVICES", "PIRL_TEST_DISABLE",
)  # fmt: skip
"""Environment variables that change what is computed; none can hold a secret."""

_GIT_TIMEOUT_S = 60.0


def package_versions() -> dict[str, str | None]:
    """Version of every package that decides what a run computes; None when not installed."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def collect_environment() -> dict[str, Any]:
    """Versions, those of installed kinds too, machine and thread settings of this process."""
    return {
        "python": platform.python_version(),
        "packages": package_versions() | doors.distributions(),
        "system": platform.system(),
        "kernel": platform.release().split("-")[0],
        "libc": " ".join(platform.libc_ver()).strip(),
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "cpu_count": os.cpu_count(),
        "cpu_usable": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "variables": {name: os.environ.get(name) for name in VARIABLES},
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def collect_source(repo_root: Path, *, lock_files: Sequence[str] = ()) -> dict[str, Any]:
    """Git commit, whether the tree is dirty and a digest of the difference, digests of lock files.

    Args:
        repo_root: top folder of the checkout, or `pirl.resources.SHIPPED` of an installed wheel: that says which
            commit it was built from, and files that were altered since make it dirty.
        lock_files: files, relative to it, that fix versions; each must exist.

    Raises:
        EvidenceError: git cannot answer, the wheel does not know its commit, or a lock file is missing.
    """
    missing = [name for name in lock_files if not (repo_root / name).is_file()]
    if missing:
        raise EvidenceError(f"{', '.join(missing)} is missing")
    locks = {name: file_sha256(repo_root / name) for name in lock_files}
    if repo_root == SHIPPED:
        return _built_from(repo_root) | {"lock_files": locks}
    commit = _git(repo_root, "rev-parse", "HEAD").decode().strip()
    patch = _git(repo_root, "diff", "HEAD", "--binary")
    untracked = _git(repo_root, "ls-files", "--others", "--exclude-standard", "-z")
    names = sorted(name for name in untracked.decode().split("\0") if name)
    digest = hashlib.sha256(patch)
    for name in names:
        digest.update(name.encode() + b"\0" + _content(repo_root / name))
    dirty = bool(patch or names)
    return {
        "git_commit": commit,
        "git_dirty": dirty,
        "patch_sha256": digest.hexdigest() if dirty else None,
        "lock_files": locks,
    }


def _built_from(shipped: Path) -> dict[str, Any]:
    """What the wheel says of its origin; a file that differs from the wheel's own record makes it dirty."""
    file = shipped / "source.json"
    if not file.is_file():
        raise EvidenceError(
            "this wheel does not know its commit: it was not built in a git checkout"
        )
    built = read_object(file)
    changed = hashlib.sha256(str(built.get("patch_sha256")).encode())
    dirty = bool(built.get("git_dirty", True))
    for entry in distribution("pirl").files or []:
        if entry.hash is None:
            continue
        content = Path(str(entry.locate())).read_bytes()
        digest = urlsafe_b64encode(hashlib.new(entry.hash.mode, content).digest()).rstrip(b"=")
        if digest.decode() != entry.hash.value:
            dirty = True
            changed.update(entry.as_posix().encode() + b"\0" + content)
    return {
        "git_commit": text(built, "git_commit"),
        "git_dirty": dirty,
        "patch_sha256": changed.hexdigest() if dirty else None,
    }


def _content(path: Path) -> bytes:
    # A link may dangle or point outside the checkout; what it says is what git would store.
    return str(path.readlink()).encode() if path.is_symlink() else file_sha256(path).encode()


def _git(root: Path, *args: str) -> bytes:
    command = ["git", "-c", "core.quotepath=off", *args]
    try:
        done = subprocess.run(
            command, cwd=root, capture_output=True, timeout=_GIT_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise EvidenceError(f"`git {args[0]}` does not answer; run from a checkout") from error
    return done.stdout
