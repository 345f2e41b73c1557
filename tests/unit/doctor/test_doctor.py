"""What the doctor says: one finding per thing, one remedy per failure, an exit code for scripts."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from pirl.config.lerobot_fields import make_feature
from pirl.doctor import gpu as doctor_gpu
from pirl.doctor import main as doctor
from pirl.doctor import profile as doctor_profile
from pirl.doctor.check import Check, guarded
from pirl.errors import EnvironmentNotReadyError

REPO = Path(__file__).resolve().parents[3]


def found(name: str, *, ok: bool, required: bool = True) -> Check:
    return Check(name=name, ok=ok, found="x", remedy="" if ok else "do y", required=required)


def answer(monkeypatch, capsys, checks, *argv):
    monkeypatch.setattr(doctor, "run_checks", lambda _path: checks)
    return doctor.main(argv), capsys.readouterr().out


def test_missing_requirement_is_exit_code_3_with_its_remedy(monkeypatch, capsys):
    checks = [found("gl", ok=False), found("disk", ok=True)]
    code, out = answer(monkeypatch, capsys, checks)
    assert code == 3
    assert "FAIL gl" in out
    assert "fix: do y" in out
    assert out.splitlines()[-1] == "NOT READY: 1 to mend"


def test_optional_thing_is_a_note_and_no_failure(monkeypatch, capsys):
    code, out = answer(monkeypatch, capsys, [found("gpu", ok=False, required=False)])
    assert code == 0
    assert out.startswith("note gpu")
    assert out.splitlines()[-1] == "ready"


def test_json_holds_every_finding(monkeypatch, capsys):
    checks = [found("gl", ok=False), found("disk", ok=True)]
    code, out = answer(monkeypatch, capsys, checks, "--json")
    assert code == 3
    record = json.loads(out)
    assert record["ready"] is False
    assert [c["name"] for c in record["checks"]] == ["gl", "disk"]
    assert record["checks"][0]["remedy"] == "do y"


def test_probe_that_is_not_ready_gives_its_own_remedy():
    def probe() -> str:
        raise EnvironmentNotReadyError("no EGL", remedy="install libegl1")

    check = guarded("render", probe, remedy="something else")
    assert (check.ok, check.found, check.remedy) == (False, "no EGL", "install libegl1")


@pytest.mark.parametrize(
    ("installed", "ok"), [("3.8.1", True), ("3.9.0", False), ("not installed", False)]
)
def test_package_outside_its_range_is_named_with_the_range(monkeypatch, installed, ok):
    def version(name: str) -> str:
        if installed == "not installed":
            raise doctor.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(doctor, "version", version)
    check = doctor._package("mujoco", "==3.8.1")
    assert (check.ok, check.found) == (ok, installed)
    assert ok or "mujoco==3.8.1" in check.remedy


def test_port_in_use_is_answered_with_a_free_one(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(doctor, "PORT", taken.getsockname()[1])
        check = doctor._port()
    assert not check.ok
    offered = int(check.remedy.rpartition("=")[2])
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", offered)) != 0


def test_full_disk_is_found(monkeypatch):
    usage = SimpleNamespace(free=1 * 2**30)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _path: usage)
    check = doctor._disk()
    assert (check.ok, check.found) == (False, "1 GiB free")


def profile(tmp_path: Path, **env: object) -> dict[str, Check]:
    tree = json.loads((REPO / "configs/train_config_pirl_libero_smoke.json").read_text())
    tree["env"] |= {"episode_length": 800, **env}
    path = tmp_path / "train_config.json"
    path.write_text(json.dumps(tree))
    return {c.name.removeprefix("profile "): c for c in doctor_profile.profile_checks(path)}


def test_profile_of_the_published_checkpoint_holds_on_the_environment_side(tmp_path):
    checks = profile(tmp_path)
    assert [name for name, c in checks.items() if not c.ok] == ["checkpoint"]
    assert set(checks) >= {"control_mode", "episode_length", "action_mode", "domain_id", "cameras"}


@pytest.mark.parametrize(
    ("change", "name", "remedy"),
    [
        ({"episode_length": 280}, "episode_length", "set env.episode_length to 800"),
        ({"control_mode": "relative"}, "control_mode", "set env.control_mode to 'absolute'"),
    ],
)
def test_wrong_environment_setting_names_the_missing_flag(tmp_path, change, name, remedy):
    check = profile(tmp_path, **change)[name]
    assert not check.ok
    assert remedy in check.remedy


def test_wrong_embodiment_and_swapped_cameras_are_found(monkeypatch, tmp_path):
    first, second = doctor_profile.CAMERAS
    policy = SimpleNamespace(
        type="xvla",
        pretrained_path=tmp_path,
        action_mode="ee6d",
        input_features={name: make_feature("VISUAL", (3, 8, 8)) for name in (second, first)},
        num_domains=30,
    )
    monkeypatch.setattr(doctor_profile, "policy_of", lambda _cfg: policy)
    steps = [{"registry_name": "xvla_add_domain_id", "config": {"domain_id": 5}}]
    (tmp_path / "policy_preprocessor.json").write_text(json.dumps({"steps": steps}))
    checks = profile(tmp_path)
    assert {name for name, c in checks.items() if not c.ok} == {"domain_id", "cameras"}
    assert "domain_id 3" in checks["domain_id"].remedy


def test_checkpoint_that_is_not_here_is_a_note_that_says_what_was_not_checked(
    monkeypatch, tmp_path
):
    def unreachable(_path: Path) -> None:
        raise EnvironmentNotReadyError("no weights", remedy="set policy.path to a folder")

    monkeypatch.setattr(doctor_profile, "check_config", unreachable)
    check = profile(tmp_path)["checkpoint"]
    assert (check.ok, check.required) == (False, False)
    assert "domain id" in check.found
    assert check.remedy == "set policy.path to a folder"


@pytest.mark.parametrize("content", [None, "[]", '{"env": [1]}', '{"env": null}', "[" * 10**5])
def test_config_that_is_not_here_or_none_is_one_failure(tmp_path, content):
    config = tmp_path / "config.json"
    if content is not None:
        config.write_text(content)
    (check,) = doctor_profile.profile_checks(config)
    assert not check.ok
    assert "--config_path" in check.remedy


class Driver:
    """A CUDA driver with these devices; every call answers 0 unless `fails` names it."""

    def __init__(self, *names: str, fails: str = "") -> None:
        self.names, self.fails = names, fails

    def __getattr__(self, call: str):
        return lambda *arguments: (
            100 if call == self.fails else getattr(self, f"do_{call}")(*arguments)
        )

    def do_cuInit(self, _flags: int) -> int:
        return 0

    def do_cuDeviceGetCount(self, count) -> int:
        count._obj.value = len(self.names)
        return 0

    def do_cuDeviceGet(self, _device, _index: int) -> int:
        return 0

    def do_cuDeviceGetName(self, name, size: int, _device) -> int:
        assert size == len(name)
        name.value = self.names[0].encode()
        return 0


@pytest.mark.parametrize(
    ("driver", "has_cuda", "found"),
    [
        (Driver("H200", "A100"), True, "H200"),
        (Driver("H200"), False, None),
        (Driver(), True, None),
        (Driver("H200", fails="cuInit"), True, None),
        (Driver("H200", fails="cuDeviceGetName"), True, None),
        (None, True, None),
    ],
    ids=["device", "torch-for-cpu", "no-device", "no-kernel-module", "broken", "no-driver"],
)
def test_gpu_is_the_first_device_of_the_driver(monkeypatch, driver, has_cuda, found):
    def load(name: str) -> Driver:
        assert name == "libcuda.so.1"
        if driver is None:
            raise OSError(name)
        return driver

    monkeypatch.setattr(doctor_gpu.ctypes, "CDLL", load)
    monkeypatch.setattr(doctor_gpu, "_torch_has_cuda", lambda: has_cuda)
    assert doctor_gpu.gpu_name() == found
    check = doctor._gpu()
    assert (check.ok, check.required) == (found is not None, False)
    assert check.found == found or "none" in check.found
