#!/usr/bin/env python3
"""Set up and run, with nothing installed beforehand but Python, git and a C compiler.

    python3 do.py gate [options of `pirl gate`]     set up, then run the phase-2 gate
    python3 do.py test [options of pytest]          set up, then run checks and tests
    python3 do.py setup                             set up only

Standard library only and valid on any Python from 3.9 on: it runs before the environment exists.
"""

from __future__ import annotations

import ctypes.util
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
TOOLS = ROOT / ".tools"
STAMP = VENV / ".pirl-stamp"
EXTRAS = ".[libero,assets,metaworld,dev]"
# Software EGL for MuJoCo: loader, Mesa's EGL and its drivers.
GL_PACKAGES = ("libegl1", "libegl-mesa0", "libgl1", "libgl1-mesa-dri", "libglx-mesa0")


def say(message: str) -> None:
    print(f"[do] {message}", file=sys.stderr, flush=True)


def run(argv: list[str], **options: object) -> None:
    say("$ " + " ".join(argv))
    subprocess.run(argv, check=True, cwd=ROOT, stdin=subprocess.DEVNULL, **options)


def fail(message: str) -> None:
    say(message)
    raise SystemExit(3)


def ensure_gl() -> None:
    """Software EGL, where it can be installed."""
    if sys.platform == "linux" and not ctypes.util.find_library("EGL"):
        install(GL_PACKAGES, "LIBERO and MetaWorld render with libEGL")


def ensure_zsh() -> None:
    """A zsh, where it can be installed; without one its tests are skipped."""
    if shutil.which("zsh") is None:
        install(("zsh",), "the completion for it is tested in it")


def install(packages: tuple[str, ...], why: str) -> None:
    """Install Debian packages, or say which are missing where that is not possible."""
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        say(f"missing: {' '.join(packages)} ({why})")
        return
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "-q", "update"], env=quiet)
    run(["apt-get", "-q", "-y", "--no-install-recommends", "install", *packages], env=quiet)


def find_uv() -> list[str]:
    """uv from PATH, or put into .tools by pip (allowed in an externally managed Python)."""
    found = shutil.which("uv")
    if found:
        return [found]
    binary = TOOLS / "bin" / "uv"
    if not binary.exists():
        say("installing uv into .tools")
        run([sys.executable, "-m", "pip", "install", "-q", "--target", str(TOOLS), "uv"])
    return [str(binary)]


def fingerprint() -> str:
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt", ".python-version"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def ensure_environment() -> None:
    """A virtual environment with exactly the pinned packages and pirl, editable."""
    ensure_gl()
    if STAMP.exists() and STAMP.read_text() == fingerprint():
        return
    uv = find_uv()
    os.environ.setdefault("UV_SYSTEM_CERTS", "true")
    os.environ.setdefault("UV_HTTP_TIMEOUT", "180")
    version = (ROOT / ".python-version").read_text().strip()
    if not (VENV / "bin" / "python").exists():
        result = subprocess.run([*uv, "venv", "--python", version, str(VENV)], cwd=ROOT)
        if result.returncode != 0:
            fail(
                f"no Python {version} was found and none could be downloaded: install Python {version}"
            )
    python = str(VENV / "bin" / "python")
    run([*uv, "pip", "install", "--python", python, "-c", "constraints.txt", "-e", EXTRAS])
    STAMP.write_text(fingerprint())


def environment() -> dict[str, str]:
    """Variables of every command: no telemetry, software EGL, one thread per torch process."""
    env = dict(os.environ)
    # Without bytecode every process would compile the libraries again, 20 CPU seconds each.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    env["PATH"] = f"{VENV / 'bin'}{os.pathsep}{env.get('PATH', '')}"
    env.setdefault("MUJOCO_GL", "egl")
    env.setdefault("OMP_NUM_THREADS", "1")
    env.setdefault("MKL_NUM_THREADS", "1")
    env.setdefault("DO_NOT_TRACK", "true")
    env.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    env.setdefault("PYTHONUNBUFFERED", "1")
    return env


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in ("gate", "test", "setup"):
        print(__doc__, file=sys.stderr)
        return 2
    command, rest = sys.argv[1], sys.argv[2:]
    ensure_environment()
    if command == "setup":
        return 0
    python = str(VENV / "bin" / "python")
    if command == "gate":
        argv = [python, "-m", "pirl.cli", "gate", *rest]
        return subprocess.run(
            argv, cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL
        ).returncode
    if not rest:
        ensure_zsh()
    checks = [
        [python, "-m", "ruff", "check", "."],
        [python, "-m", "ruff", "format", "--check", "."],
        [str(VENV / "bin" / "lint-imports")],
        [python, "-m", "pyright", "pirl"],
    ]
    for argv in [] if rest else checks:
        say("$ " + " ".join(argv[1:] if argv[0] == python else ["lint-imports"]))
        code = subprocess.run(
            argv, cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL
        ).returncode
        if code != 0:
            return 1
    # Two processes; `tests/conftest.py` says what stays together. One that crashes ends the run.
    shared = ["-n", "2", "--max-worker-restart=0"]
    # First what an edit needs at once; then whole updates and whole bundles; then processes and simulators.
    groups = [
        [*shared, "tests/unit", "tests/contract"],
        [*shared, "tests/oracle", "tests/audit"],
        [*shared, "--durations=30", "tests/integration", "tests/e2e"],
    ]
    for arguments in [rest] if rest else groups:
        say("$ pytest " + " ".join(arguments))
        argv = [python, "-m", "pytest", *arguments]
        code = subprocess.run(
            argv, cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL
        ).returncode
        if code != 0:
            return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        say(f"failed with code {error.returncode}: {' '.join(map(str, error.cmd))}")
        sys.exit(3)
    except KeyboardInterrupt:
        sys.exit(4)
