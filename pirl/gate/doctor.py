"""`pirl doctor`: what this machine can run, one remedy per failure.

Owns the checks of `product.md` 8. Changes nothing but LIBERO's own config file, which it writes where it is
missing, because LIBERO would otherwise ask on standard input.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet

from pirl.config.train import env_of, policy_of
from pirl.errors import ExitCode, PirlError

PACKAGES = {
    "lerobot": ">=0.6.1,<0.7",
    "torch": ">=2.7,<2.12",
    "mujoco": "==3.8.1",
    "metaworld": ">=3.0,<3.1",
    "hf-libero": ">=0.1.4,<0.2",
    "prefect": ">=3.8.8,<3.9",
    "fastapi": ">=0.139,<0.151",
    "mlflow": ">=3.17,<3.18",
    "dvc": ">=3.67,<3.68",
    "grpcio": ">=1.73.1,<2",
}
"""Tested ranges; outside them nothing is promised."""

PROFILE_CONFIGS = {
    "libero": Path("configs/train_config_pirl_libero_smoke.json"),
    "xvla-libero": Path("configs/train_config_pirl_xvla_libero.json"),
}
_MIN_FREE_GIB = 5.0
_HUB = "huggingface.co"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding."""

    name: str
    ok: bool
    found: str
    remedy: str
    """What to do; empty when `ok`."""
    required: bool = True
    """False for what only some runs need (GPU, hub): shown, but no failure."""


def run_checks() -> list[Check]:
    """Every check, in the order of a reader's interest."""
    checks = [_python(), *(_package(name, spec) for name, spec in PACKAGES.items())]
    for probe in (_render, _libero, _profile, _port, _disk, _threads, _gpu, _hub):
        checks.append(probe())
    return checks


def _guarded(name: str, probe: Callable[[], str], *, remedy: str, required: bool = True) -> Check:
    """Run a probe that raises a deliberate error when the machine lacks something."""
    try:
        return Check(name=name, ok=True, found=probe(), remedy="", required=required)
    except PirlError as error:
        hint = getattr(error, "remedy", remedy)
        found = str(error).splitlines()[0]
        return Check(name=name, ok=False, found=found, remedy=str(hint), required=required)


def _python() -> Check:
    ok = sys.version_info[:2] == (3, 12)
    return Check(
        name="python",
        ok=ok,
        found=platform.python_version(),
        remedy="" if ok else "use Python 3.12 (.python-version); python3 do.py setup does it",
    )


def _package(name: str, wanted: str) -> Check:
    try:
        found = version(name)
    except PackageNotFoundError:
        found = "not installed"
    ok = found != "not installed" and found in SpecifierSet(wanted)
    remedy = "" if ok else f"install {name}{wanted}; python3 do.py setup installs all pins"
    return Check(name=f"package {name}", ok=ok, found=found, remedy=remedy)


def _render() -> Check:
    """One frame of the embedded environment, through the GL back end in force."""
    backend = os.environ.setdefault("MUJOCO_GL", "egl")

    def probe() -> str:
        from pirl.config.train import PiRLMetaWorldEnvConfig
        from pirl.envs import load_split, make_vector_env
        from pirl.envs.schedule import evaluation_plans

        cfg = PiRLMetaWorldEnvConfig()
        split = load_split("pirl_metaworld")
        env = make_vector_env(
            cfg, num_envs=1, num_workers=1, image_keys=("observation.images.image",), split=split
        )
        try:
            plans = evaluation_plans(
                seed=0, task_names=env.task_names, split=split, episodes_per_task=1
            )
            frame = next(iter(env.reset({0: plans[0]})[0].images.values()))
        finally:
            env.close()
        return (
            f"MUJOCO_GL={backend}: {frame.shape[1]} x {frame.shape[2]} frame, std {frame.std():.0f}"
        )

    return _guarded(
        "render",
        probe,
        remedy="install libegl1 libgl1-mesa-dri (software EGL) and set MUJOCO_GL=egl",
    )


def _libero() -> Check:
    def probe() -> str:
        from pirl.envs.libero_setup import prepare_assets, prepare_config

        prepare_config()
        folder = prepare_assets()
        return f"config written, assets complete ({sum(1 for _ in folder.iterdir())} folders)"

    return _guarded(
        "libero", probe, remedy="set PIRL_LIBERO_ASSETS to a folder with LIBERO's assets"
    )


def _profile() -> Check:
    """The X-VLA x LIBERO profile: every rule of its config, cameras and control mode included."""

    def probe() -> str:
        from pirl.config.load import load_config

        cfg: Any = load_config(PROFILE_CONFIGS["libero"]).cfg
        cameras = ", ".join(k.rsplit(".", 1)[-1] for k in policy_of(cfg).image_features)
        return (
            f"control_mode={env_of(cfg).control_mode}, episode_length={env_of(cfg).episode_length}, "
            f"action_mode={policy_of(cfg).action_mode}, executed dims {len(cfg.pirl.executed_dims or ())}, "
            f"cameras {cameras}; domain id is read from the checkpoint"
        )

    return _guarded(
        "profile X-VLA x LIBERO", probe, remedy="run from the repository root; mend the config"
    )


def _port() -> Check:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = int(probe.getsockname()[1])
    with socket.socket() as probe:
        probe.settimeout(1.0)
        taken = probe.connect_ex(("127.0.0.1", 50051)) == 0
    return Check(
        name="port 50051",
        ok=not taken,
        found="in use" if taken else "free",
        remedy=f"choose another one, for example --runtime.port={free}" if taken else "",
    )


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    ok = free >= _MIN_FREE_GIB
    remedy = "" if ok else f"free {_MIN_FREE_GIB:.0f} GiB for checkpoints and evidence"
    return Check(name="disk", ok=ok, found=f"{free:.0f} GiB free", remedy=remedy)


def _threads() -> Check:
    found = os.environ.get("OMP_NUM_THREADS")
    ok = found is not None and found.isdecimal()
    return Check(
        name="threads",
        ok=ok,
        found=f"OMP_NUM_THREADS={found}, {os.cpu_count()} cores",
        remedy="" if ok else "set OMP_NUM_THREADS=1: learner and actors share the cores",
        required=False,
    )


def _gpu() -> Check:
    import torch

    ok = torch.cuda.is_available()
    found = torch.cuda.get_device_name(0) if ok else "none; the CPU profiles need none"
    remedy = "" if ok else "for the 0.9 B policy set runtime.learner_device=cuda on a GPU machine"
    return Check(name="gpu", ok=ok, found=found, remedy=remedy, required=False)


def _hub() -> Check:
    offline = os.environ.get("HF_HUB_OFFLINE", "0") in ("1", "true")
    reachable = False
    if not offline:
        try:
            with socket.create_connection((_HUB, 443), timeout=3.0):
                reachable = True
        except OSError:
            reachable = False
    return Check(
        name="hub",
        ok=reachable,
        found="reachable"
        if reachable
        else ("HF_HUB_OFFLINE is set" if offline else "not reachable"),
        remedy="" if reachable else "give weights and LIBERO assets as local folders",
        required=False,
    )


def main(argv: Sequence[str]) -> int:
    """Command line of `pirl doctor`; exit code 3 when something required is missing."""
    parser = argparse.ArgumentParser(prog="pirl doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="all findings as JSON on stdout")
    args = parser.parse_args(list(argv))
    checks = run_checks()
    failed = [c for c in checks if not c.ok and c.required]
    if args.json:
        answer = {"ready": not failed, "checks": [asdict(c) for c in checks]}
        sys.stdout.write(json.dumps(answer, indent=1) + "\n")
    else:
        sys.stdout.write("\n".join(_line(c) for c in checks) + "\n")
    return int(ExitCode.NOT_READY if failed else ExitCode.OK)


def _line(check: Check) -> str:
    mark = "ok  " if check.ok else ("FAIL" if check.required else "note")
    text = f"{mark} {check.name:<24} {check.found}"
    return text if check.ok else f"{text}\n     fix: {check.remedy}"
