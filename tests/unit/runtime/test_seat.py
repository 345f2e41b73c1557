"""Which of a learner's processes this one is, and what a wrong environment is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from pirl.errors import ConfigError
from pirl.runtime.seat import (
    RENDEZVOUS,
    Seat,
    device_of,
    own_seat,
    require_size,
    role_of,
    seats_here,
)

TORCHRUN = {
    "WORLD_SIZE": "16",
    "RANK": "9",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "host0",
    "MASTER_PORT": "29500",
}


@pytest.fixture(autouse=True)
def _no_torchrun(monkeypatch: pytest.MonkeyPatch):
    for name in (*TORCHRUN, RENDEZVOUS):
        monkeypatch.delenv(name, raising=False)


def given(monkeypatch: pytest.MonkeyPatch, **environment: str) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def test_without_torchrun_a_process_is_alone():
    assert own_seat() == Seat(rank=0, size=1, local_rank=0)
    assert own_seat().role == "learner"


def test_torchrun_says_which_one_it_is(monkeypatch):
    given(monkeypatch, **TORCHRUN)
    assert own_seat() == Seat(rank=9, size=16, local_rank=1)
    assert own_seat().role == role_of(9) == "learner-9"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WORLD_SIZE", "many"),
        ("WORLD_SIZE", "0"),
        ("RANK", "16"),
        ("RANK", "-1"),
        ("LOCAL_RANK", "x"),
        ("MASTER_ADDR", ""),
        ("MASTER_PORT", ""),
    ],
)
def test_a_wrong_variable_is_named(monkeypatch, name, value):
    given(monkeypatch, **{**TORCHRUN, name: value})
    with pytest.raises(ConfigError) as caught:
        own_seat()
    assert caught.value.errors[0].field == (
        "RANK" if (name, value) == ("WORLD_SIZE", "0") else name
    )


def test_another_number_of_processes_than_the_config_says_is_refused_with_both():
    require_size(Seat(rank=1, size=2), 2)
    with pytest.raises(ConfigError) as caught:
        require_size(Seat(rank=1, size=2), 4)
    error = caught.value.errors[0]
    assert (error.field, error.value) == ("parallelism.dp_replicate", 4)
    assert "2 (WORLD_SIZE)" in error.expected
    assert "--learner-processes 4" in error.fix
    assert "parallelism.dp_replicate=2" in error.fix


def test_processes_of_one_machine_meet_in_a_file_and_stay_on_it(monkeypatch, tmp_path: Path):
    assert seats_here(1, tmp_path) == [{}]
    first, second = seats_here(2, tmp_path)
    assert first[RENDEZVOUS] == second[RENDEZVOUS] == f"file://{tmp_path / 'rendezvous'}"
    assert first["GLOO_SOCKET_IFNAME"] == "lo"
    given(monkeypatch, **second)
    assert own_seat() == Seat(rank=1, size=2, local_rank=1)


@pytest.mark.parametrize(
    ("seat", "device", "expected"),
    [
        (Seat(rank=9, size=16, local_rank=1), "cuda", "cuda:1"),
        (Seat(rank=9, size=16, local_rank=1), "cpu", "cpu"),
        (Seat(), "cuda", "cuda"),
        (Seat(), "cuda:3", "cuda:3"),
    ],
)
def test_each_process_takes_the_gpu_of_its_number_on_its_machine(seat, device, expected):
    assert device_of(seat, device) == expected
