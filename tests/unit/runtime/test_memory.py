"""The account of a learner's memory: what it depends on, that the row it rests on is a fair one, and the refusal.

Whole processes are measured by `python -m benchmarks memory`.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from pirl.algorithm.networks import encode, replay
from pirl.config.load import load_config
from pirl.errors import EnvironmentNotReadyError
from pirl.records import Observation
from pirl.runtime import memory
from pirl.runtime.memory import learner_memory, require_memory
from pirl.runtime.session import Session, build_session

CONFIGS = {
    "flow-sde": "configs/train_config_pirl_embedded.json",
    "flow-noise": "configs/train_config_pirl_embedded_flow_noise.json",
}


def a_session(variant: str = "flow-sde", *overrides: str) -> Session:
    return build_session(load_config(CONFIGS[variant], overrides), device="cpu", run_id="memory")


@pytest.fixture(scope="module")
def session() -> Session:
    return a_session()


def test_rows_cost_contexts_and_batch_and_are_shared_out(session):
    one, more = (learner_memory(session, rows=rows, processes=1) for rows in (32, 64))
    shared = learner_memory(session, rows=64, processes=2)
    assert (more.contexts, more.batch) == (2 * one.contexts, 2 * one.batch)
    assert (shared.contexts, shared.batch) == (one.contexts, more.batch)
    fixed = ("gradients", "moments", "activations", "published", "saved")
    for name in fixed:
        assert getattr(one, name) == getattr(more, name) == getattr(shared, name) > 0, name


def test_a_micro_batch_costs_activations():
    small, large = (
        learner_memory(
            a_session("flow-sde", f"--pirl.micro_batch={size}"), rows=64, processes=1
        ).activations
        for size in (4, 16)
    )
    assert large == 4 * small


@pytest.mark.parametrize("variant", CONFIGS)
def test_a_pass_of_eight_rows_keeps_eight_times_what_is_measured_on_one(variant):
    session = a_session(variant, "--pirl.micro_batch=8")
    account = learner_memory(session, rows=8, processes=1)
    schema, policy = session.schema, session.policy
    info = {n: torch.zeros(8, *s.shape[1:], dtype=s.dtype) for n, s in schema.info.items()}
    info["pirl_valid_steps"].fill_(policy.spec.executed_steps)
    state = {n: torch.zeros(8, *s.shape[1:], dtype=s.dtype) for n, s in schema.state.items()}
    observation = Observation(
        images={n: t for n, t in state.items() if n != "observation.state"},
        state=state["observation.state"],
        inputs={
            "input_ids": info["pirl_input_ids"],
            "domain_id": torch.zeros(8, dtype=torch.int64),
        },
    )
    with torch.no_grad():
        context = encode(policy, observation, size=8)
    own = {p.untyped_storage().data_ptr() for p in session.algorithm.networks.parameters().values()}
    own |= {p.untyped_storage().data_ptr() for p in policy.module.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        replayed = replay(session.algorithm.networks, context, info, rows=torch.arange(8))
    total = sum(size for place, size in kept.items() if place not in own)
    assert replayed.log_prob.requires_grad
    assert account.activations == pytest.approx(total, rel=0.1)


def test_asking_changes_nothing(session):
    before = {n: t.clone() for n, t in session.algorithm.live_tensors().items()}
    state = torch.get_rng_state()
    learner_memory(session, rows=8, processes=1)
    assert all(torch.equal(t, before[n]) for n, t in session.algorithm.live_tensors().items())
    assert all(p.grad is None for p in session.algorithm.networks.parameters().values())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_run_that_does_not_fit_stops_with_the_parts_and_the_remedy(session, monkeypatch):
    need = require_memory(session, processes=1).together

    def with_free(size: int) -> None:
        free: Any = lambda: SimpleNamespace(available=size)  # noqa: E731
        monkeypatch.setattr(psutil, "virtual_memory", free)

    with_free(need)
    assert require_memory(session, processes=1).together == need
    with_free(need - 1)
    with pytest.raises(EnvironmentNotReadyError) as caught:
        require_memory(session, processes=1)
    for part in ("main memory", "activations", "contexts", "moments", "pirl.micro_batch"):
        assert part in str(caught.value)


def test_an_accelerator_is_asked_for_what_lies_on_it(session, monkeypatch):
    account = require_memory(session, processes=1)
    gpu = SimpleNamespace(type="cuda")
    monkeypatch.setattr(memory, "learner_memory", lambda *_, **__: account)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (account.device - 1, 0))
    policy = SimpleNamespace(device=gpu)
    fake: Any = SimpleNamespace(loaded=session.loaded, bounds=session.bounds, policy=policy)
    with pytest.raises(EnvironmentNotReadyError, match=r"does not fit into .*cuda"):
        require_memory(fake, processes=1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (account.device, 0))
    assert require_memory(fake, processes=1) is account


@pytest.mark.parametrize("variant", CONFIGS)
def test_activations_that_are_computed_again_are_counted_by_the_piece(variant):
    whole, pieces = (
        learner_memory(
            a_session(variant, f"--pirl.recompute_activations={most}"), rows=64, processes=1
        ).activations
        for most in (0, 2)
    )
    # Eight rows of one prediction, or of two steps.
    assert pieces == whole * 2 // (16 if variant == "flow-noise" else 8)
