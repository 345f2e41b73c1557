"""Loading weights: what the machine lacks is not blamed on the weights, and the other way round."""

from __future__ import annotations

import pytest
import torch
from contract_builders import a_config
from lerobot.policies.xvla.modeling_xvla import XVLAPolicy

from pirl.errors import CheckpointError, EnvironmentNotReadyError
from pirl.policies.xvla import source

MACHINE = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory"
    ),
    RuntimeError("No CUDA GPUs are available"),
]


def load(error, monkeypatch):
    config = a_config()
    config.pretrained_path = "start"
    monkeypatch.setattr(source, "_find", lambda *_, **__: None)
    monkeypatch.setattr(source, "_compare", lambda *_: None)
    monkeypatch.setattr(source, "_refuse_wrapped", lambda *_: None)

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(XVLAPolicy, "from_pretrained", fail)
    source.load_policy(config)


@pytest.mark.parametrize("error", MACHINE, ids=range(len(MACHINE)))
def test_memory_and_accelerator_are_the_machines(error, monkeypatch):
    with pytest.raises(EnvironmentNotReadyError, match=r"memory|accelerator"):
        load(error, monkeypatch)


def test_names_and_shapes_are_the_checkpoints(monkeypatch, tmp_path):
    error = RuntimeError("Error(s) in loading state_dict for XVLAPolicy:\n\tMissing key(s): x")
    with pytest.raises(CheckpointError, match="do not fit the policy config") as caught:
        load(error, monkeypatch)
    assert "Missing key(s): x" in caught.value.parts


@pytest.mark.parametrize("text", ["", "something else"])
def test_anything_else_does_not_say_that_the_weights_do_not_fit(text, monkeypatch):
    with pytest.raises(CheckpointError, match="cannot be built"):
        load(RuntimeError(text), monkeypatch)
