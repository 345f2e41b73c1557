"""What the contract check asks: fixed inputs inside the domain, and answers named as found."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from contract_builders import a_config, a_policy, an_observation, noise
from toy_policies import SigmoidInPlace, ToyPolicy, toy_observation

from pirl.contract import check_shapes
from pirl.contract.check import ClauseStatus, check_flow_policy
from pirl.contract.check_probe import Probe, some
from pirl.contract.precision import BF16_FROZEN, FP32, TF32, switch_tf32, tf32_is_on
from pirl.errors import ContractError
from pirl.policies.xvla.policy import XVLAFlowPolicy


def details(policy, rows=2):
    """What is wrong, by broken clause."""
    report = check_flow_policy(policy, toy_observation(rows))
    return {r.name: r.detail for r in report.results if r.status is ClauseStatus.BROKEN}


class Strict(ToyPolicy):
    """Refuses what no sampler ever asks."""

    def encode(self, observation, *, gradient=False):
        assert not gradient or self.trains_encoder
        return super().encode(observation, gradient=gradient)

    def predict(self, context, x, t):
        if not ((t > 0) & (t <= 1)).all() or len(t) != len(x) != len(context):
            raise ValueError("no flow time")
        return super().predict(context, x, t)


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
def test_a_policy_is_asked_for_nothing_outside_the_contract(rows):
    before = torch.get_rng_state()
    assert details(Strict(), rows) == {}
    assert torch.equal(torch.get_rng_state(), before)


def test_the_questions_are_the_same_bits_whenever_they_are_asked():
    probe, again = (Probe(policy=ToyPolicy(), observation=toy_observation(3)) for _ in range(2))
    assert torch.equal(probe.x, again.x)
    assert torch.equal(probe.noise(4), again.noise(4))
    assert not torch.equal(probe.noise(4), probe.noise(5))
    assert probe.x.shape == (3, 4, 5)
    assert len(set(probe.t.tolist())) == 3
    assert float(probe.t[0]) == 1.0
    assert not probe.predict(probe.x).clean.requires_grad


@pytest.mark.parametrize(
    ("count", "shown"),
    [(1, "a"), (3, "a, b, c"), (4, "a, b, c and 1 more"), (6, "a, b, c and 3 more")],
)
def test_long_lists_of_names_are_cut(count, shown):
    assert some(list("abcdef")[:count]) == shown


@pytest.mark.parametrize(
    "changes",
    [
        {"executed_dims": (0, 1, 2, 3, 4)},
        {"executed_steps": 1},
        {"executed_steps": 4},
        {"denoising_steps": 1},
        {"executed_dims": (0,), "hidden_gripper_dims": (2,)},
    ],
)
def test_a_spec_at_the_edge_is_a_spec(changes):
    policy = ToyPolicy()
    policy.spec = replace(policy.spec, **changes)
    assert details(policy) == {}


class EveryOther(ToyPolicy):
    """Every second prediction is altered."""

    def __init__(self, *, clean=0.0, features=0.0):
        super().__init__()
        self.calls, self.clean, self.features = 0, clean, features

    def predict(self, context, x, t):
        got = super().predict(context, x, t)
        self.calls += 1
        if self.calls % 2:
            return got
        clean, features = got.clean.clone(), got.features.clone()
        clean[0, 0, 0] += self.clean
        features[0, 0, 0] += self.features
        return replace(got, clean=clean, features=features)


@pytest.mark.parametrize(
    ("alters", "gap"), [({"clean": 0.5}, "0.5"), ({"features": 0.5}, "0"), ({"clean": -2.0}, "2")]
)
def test_one_entry_that_differs_between_two_predictions_is_found(alters, gap):
    found = details(EveryOther(**alters))
    assert found["predict-deterministic"] == f"two calls differ, clean by up to {gap}"


class AltersOneEntry(ToyPolicy):
    def postprocess(self, chunk):
        chunk[1, 2, 3] += 1
        return chunk[..., :3]


def test_one_altered_entry_of_the_chunk_is_found():
    assert details(AltersOneEntry()) == {"postprocess-pure": "altered dims [3] of its argument"}


class WorksInTrainModeHalf(ToyPolicy):
    """One of its two questions is answered in train mode."""

    def __init__(self, question):
        super().__init__()
        self.question = question

    def encode(self, observation, *, gradient=False):
        if self.question != "encode":
            self.guard()
        with torch.no_grad():
            return self.context_of(observation)

    def predict(self, context, x, t):
        guard, self.guard = self.guard, lambda: None
        try:
            if self.question != "predict":
                guard()
            return super().predict(context, x, t)
        finally:
            self.guard = guard


@pytest.mark.parametrize("question", ["encode", "predict"])
def test_a_question_that_is_answered_in_train_mode_is_named(question):
    found = details(WorksInTrainModeHalf(question))
    assert found == {"train-mode-refused": f"worked in train mode: {question}"}


class ReadsTheGripperOnce(ToyPolicy):
    def visible(self, x):
        seen = super().visible(x).clone()
        seen[:, 0, 2] = x[:, 0, 2]
        return seen


def test_a_gripper_that_is_read_in_one_row_is_found():
    assert details(ReadsTheGripperOnce()).keys() == {"hidden-gripper"}


class IgnoresADim(ToyPolicy):
    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    def visible(self, x):
        seen = super().visible(x).clone()
        seen[:, self.rows, 3] = 0
        return seen


def test_a_dim_is_unread_only_when_no_row_reads_it():
    assert details(IgnoresADim(slice(0, 1))) == {}
    assert details(IgnoresADim(slice(None))) == {"visible-dims": "no effect of dims [3]"}


class ValuesOtherPredictions(ToyPolicy):
    """Its critic sees a prediction at another x than the first."""

    first, last = None, 0.0

    def encode(self, observation, *, gradient=False):
        got = super().encode(observation, gradient=gradient)
        return replace(got, critic_features=got.critic_features + self.last)

    def predict(self, context, x, t):
        if len(x) == 2:
            self.first = x.mean() if self.first is None else self.first
            self.last = x.mean() - self.first
        return super().predict(context, x, t)


def test_a_critic_that_sees_another_prediction_is_found():
    policy = ValuesOtherPredictions()
    policy.spec = replace(policy.spec, hidden_gripper_dims=(2,))
    assert "critic-features" in details(policy)


class CriticWithAGraph(ToyPolicy):
    def encode(self, observation, *, gradient=False):
        got = super().encode(observation, gradient=gradient)
        graph = self.module.head.bias.sum() * 0
        return replace(got, critic_features=got.critic_features + graph)


def test_a_graph_of_the_critics_features_is_its_own_clause():
    assert details(CriticWithAGraph()) == {"critic-features": "carries a graph"}


def test_modules_in_train_mode_are_named():
    policy = ToyPolicy()
    policy.module.train()
    policy.module.vlm.eval()
    policy.module.head.eval()
    policy.module.body.eval()
    assert details(policy)["eval-mode"] == "in train mode: (root)"
    policy = ToyPolicy()
    policy.module.body.train()
    assert details(policy)["eval-mode"] == "in train mode: body, body.0, body.1"


def test_what_a_policy_alters_is_not_asked_with_again():
    probe = Probe(policy=SigmoidInPlace(), observation=toy_observation())
    assert check_shapes.postprocess(probe) == ""
    assert torch.equal(probe.x, probe.noise(0))


# TF32


@pytest.fixture
def tf32():
    """Sets both switches, which exist on every machine, and puts them back."""
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn)

    def set_to(*values):
        for switch, value in zip(switches, values, strict=True):
            switch.allow_tf32 = value

    before = [switch.allow_tf32 for switch in switches]
    yield set_to
    set_to(*before)


@pytest.mark.parametrize("matmul", [True, False])
@pytest.mark.parametrize("cudnn", [True, False])
def test_either_switch_turns_tf32_on_and_both_are_turned(tf32, matmul, cudnn):
    tf32(matmul, cudnn)
    assert tf32_is_on() is (matmul or cudnn)
    for mode in (FP32, BF16_FROZEN, TF32):
        switch_tf32(mode)
        assert torch.backends.cuda.matmul.allow_tf32 is (mode == TF32)
        assert torch.backends.cudnn.allow_tf32 is (mode == TF32)


@pytest.mark.parametrize(
    ("mode", "device", "is_on", "says"),
    [
        (FP32, "cuda", True, "TF32 is on"),
        (FP32, "cuda", False, ""),
        (FP32, "cpu", True, ""),
        (TF32, "cuda", False, "TF32 is off"),
        (TF32, "cuda", True, ""),
    ],
)
def test_tf32_matters_where_there_is_a_gpu(tf32, mode, device, is_on, says):
    tf32(is_on, False)
    policy = SimpleNamespace(trained_parameters=dict, device=torch.device(device), precision=mode)
    assert check_shapes.precision(SimpleNamespace(policy=policy)) == says


class OnGpu(XVLAFlowPolicy):
    """Says that it is on a GPU."""

    device = torch.device("cuda")


def test_x_vla_turns_tf32_off_on_a_gpu_and_refuses_to_work_with_it(tf32):
    stock = a_policy().module
    tf32(True, True)
    policy = OnGpu(stock)
    assert not tf32_is_on()
    policy._guard()
    tf32(False, True)
    with pytest.raises(ContractError, match="TF32"):
        policy._guard()
    wanted = OnGpu(stock, precision=TF32)
    wanted._guard()
    tf32(False, False)
    with pytest.raises(ContractError, match="TF32 off"):
        wanted._guard()


def test_x_vla_on_a_cpu_leaves_the_switches_alone_and_does_not_care(tf32):
    tf32(True, True)
    config = a_config()
    policy = a_policy(config)
    assert tf32_is_on()
    context = policy.encode(an_observation(config))
    policy.predict(context, noise(policy), torch.ones(2))
