"""`pirl doctor`: what this machine can run, one remedy per failure.

Owns its checks. Changes nothing but LIBERO's own config file, which it writes where it is
missing, because LIBERO would otherwise ask on standard input.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet

from pirl import doors
from pirl.config.command_line import parse
from pirl.doctor.arguments import PROFILE_CONFIG, doctor_parser
from pirl.doctor.check import Check, finding, guarded
from pirl.doctor.gpu import gpu_name
from pirl.doctor.profile import profile_checks
from pirl.envs.machine import check_libero
from pirl.errors import EnvironmentNotReadyError, ExitCode

PACKAGES = {
    "lerobot": ">=0.6.1,<0.7",
    "torch": ">=2.7,<2.12",
    "mujoco": "==3.8.1",
    "metaworld": ">=3.0,<3.1",
    "hf-libero": ">=0.1.4,<0.2",
    "prefect": ">=3.9,<3.10",
    "mlflow": ">=3.17,<3.18",
    "dvc": ">=3.67,<3.68",
    "grpcio": ">=1.73.1,<2",
}
"""Tested ranges; outside them nothing is promised."""

_MIN_FREE_GIB = 5.0
PORT = 50051
"""Default of `runtime.port`, as in LeRobot."""
_HUB = "huggingface.co"
_REACHABLE = "reachable"


def run_checks(profile_config: Path = PROFILE_CONFIG) -> list[Check]:
    """Every check, in the order of a reader's interest.

    Args:
        profile_config: the train config whose X-VLA x LIBERO profile is looked at.
    """
    hub = _hub()
    if not hub.ok:
        # Read by huggingface_hub when it is imported; without it every look-up retries for half a minute.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    checks = [_python(), *(_package(name, spec) for name, spec in PACKAGES.items())]
    checks += [_render(), _libero(), *_kinds(), *profile_checks(profile_config)]
    return [*checks, _port(), _disk(), _threads(), _gpu(), hub]


def _python() -> Check:
    remedy = "use Python 3.12 (.python-version); python3 do.py setup does it"
    return finding("python", sys.version_info[:2] == (3, 12), platform.python_version(), remedy)


def _package(name: str, wanted: str) -> Check:
    try:
        found = version(name)
    except PackageNotFoundError:
        found = "not installed"
    ok = found != "not installed" and found in SpecifierSet(wanted)
    remedy = f"install {name}{wanted}; python3 do.py setup installs all pins"
    return finding(f"package {name}", ok, found, remedy)


def _render() -> Check:
    """One frame of the embedded environment, through the GL back end in force."""
    backend = os.environ.setdefault("MUJOCO_GL", "egl")

    def probe() -> str:
        from pirl.config.lerobot_fields import PiRLMetaWorldEnvConfig
        from pirl.envs import load_split, make_vector_env
        from pirl.envs.schedule import evaluation_plans

        cfg: Any = PiRLMetaWorldEnvConfig()
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

    return guarded(
        "render",
        probe,
        remedy="install libegl1 libgl1-mesa-dri (software EGL) and set MUJOCO_GL=egl",
    )


def _libero() -> Check:
    def probe() -> str:
        found = check_libero()
        return f"every asset is LIBERO's own; from {found.source}"

    return guarded("libero", probe, remedy="install 'pirl[libero,assets]'")


def _kinds() -> list[Check]:
    """What a config may name, one finding each: who offers it, and whether it can be imported."""
    labels = {doors.POLICIES: "policy", doors.ENVS: "env", doors.REWARDS: "reward"}
    return [
        _kind(group, label, name)
        for group, label in labels.items()
        for name in doors.installed(group)
    ]


def _kind(group: str, label: str, name: str) -> Check:
    def probe() -> str:
        kind = doors.load(group, name)
        holder = doors.origin(group, name)
        try:
            # Where a distribution's own requirements show; of the built-in ones the package checks tell.
            return (
                holder
                if name in doors.BUILT_IN[group]
                else f"{holder}: {kind.config_class().__name__}"
            )
        except ImportError as error:
            what = f"{holder} cannot be imported: {error}"
            raise EnvironmentNotReadyError(what, remedy=f"install what {holder} needs") from error

    remedy = "leave one distribution that offers it"
    return guarded(f"{label} {name}", probe, remedy=remedy, required=False)


def _port() -> Check:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = int(probe.getsockname()[1])
    with socket.socket() as probe:
        probe.settimeout(1.0)
        taken = probe.connect_ex(("127.0.0.1", PORT)) == 0
    found = "in use" if taken else "free"
    remedy = f"choose another one, for example --runtime.port={free}"
    return finding(f"port {PORT}", not taken, found, remedy)


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    remedy = f"free {_MIN_FREE_GIB:.0f} GiB for checkpoints and evidence"
    return finding("disk", free >= _MIN_FREE_GIB, f"{free:.0f} GiB free", remedy)


def _threads() -> Check:
    threads = os.environ.get("OMP_NUM_THREADS")
    ok = threads is not None and threads.isdecimal()
    found = f"OMP_NUM_THREADS={threads}, {os.cpu_count()} cores"
    remedy = "set OMP_NUM_THREADS=1: learner and actors share the cores"
    return finding("threads", ok, found, remedy, required=False)


def _gpu() -> Check:
    name = gpu_name()
    remedy = "for the 0.9 B policy set runtime.learner_device=cuda on a GPU machine"
    found = name or "none; the CPU profiles need none"
    return finding("gpu", name is not None, found, remedy, required=False)


def _hub() -> Check:
    found = "HF_HUB_OFFLINE is set"
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("1", "true"):
        try:
            with socket.create_connection((_HUB, 443), timeout=3.0):
                found = _REACHABLE
        except OSError:
            found = "not reachable"
    remedy = "give weights and LIBERO assets as local folders"
    return finding("hub", found == _REACHABLE, found, remedy, required=False)


def main(argv: Sequence[str]) -> int:
    """Command line of `pirl doctor`; exit code 3 when something required is missing."""
    args, _ = parse(doctor_parser(), argv)
    checks = run_checks(args.config_path)
    failed = [c for c in checks if not c.ok and c.required]
    if args.json:
        answer = {"ready": not failed, "checks": [asdict(c) for c in checks]}
        sys.stdout.write(json.dumps(answer, indent=1) + "\n")
    else:
        ready = f"NOT READY: {len(failed)} to mend" if failed else "ready"
        sys.stdout.write("\n".join([*map(_line, checks), ready]) + "\n")
    return int(ExitCode.NOT_READY if failed else ExitCode.OK)


def _line(check: Check) -> str:
    mark = "ok  " if check.ok else ("FAIL" if check.required else "note")
    text = f"{mark} {check.name:<22} {check.found}"
    return text if check.ok else f"{text}\n     fix: {check.remedy}"
