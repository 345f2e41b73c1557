"""The executable contract: what keeps it passes, and each way of breaking it has its own name."""

from dataclasses import replace

import pytest
import torch
from contract_builders import ALL_MODES, a_config, a_policy, an_observation
from torch import nn
from toy_policies import BROKEN, ToyPolicy, TwiceBroken, toy_observation, with_tensor

from pirl.contract.check import (
    CLAUSES,
    ClauseResult,
    ClauseStatus,
    ContractReport,
    check_flow_policy,
)
from pirl.contract.flow_policy import FlowPolicy


def test_toy_policy_keeps_every_clause():
    report = check_flow_policy(ToyPolicy(), toy_observation())
    assert report.failed == ()
    assert [r.name for r in report.results] == [clause.name for clause in CLAUSES]
    assert {r.status for r in report.results} == {ClauseStatus.KEPT}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda cls: cls.__name__)
def test_broken_policy_is_named_by_exactly_its_clause(broken):
    report = check_flow_policy(broken(), toy_observation())
    assert report.failed == (BROKEN[broken],)
    assert not report.passed


def test_every_clause_has_a_policy_that_breaks_it():
    assert set(BROKEN.values()) == {clause.name for clause in CLAUSES}


def altered(**changes):
    """The toy policy with another spec."""
    policy = ToyPolicy()
    policy.spec = replace(policy.spec, **changes)
    return policy


def claiming(*, trained=(), frozen=(), without=()):
    """The toy policy with other claims about its parameters."""
    policy = ToyPolicy()
    own = {"trained": policy.trained_parameters(), "frozen": policy.frozen_parameters()}
    for side, more in (("trained", trained), ("frozen", frozen)):
        kept = {n: p for n, p in own[side].items() if n not in without} | dict(more)
        setattr(policy, f"{side}_parameters", lambda kept=kept: kept)
    return policy


def encoding(**changes):
    """The toy policy whose encoded observation is altered, field by field."""
    policy = ToyPolicy()
    encode = policy.encode

    def wrong(observation):
        got = encode(observation)
        if "critic_features" in changes:
            return replace(got, critic_features=changes["critic_features"](got.critic_features))
        return with_tensor(got, **changes)

    policy.encode = wrong
    return policy


def predicting(**changes):
    """The toy policy whose prediction is altered, field by field."""
    policy = ToyPolicy()
    predict = policy.predict

    def wrong(context, x, t):
        got = predict(context, x, t)
        return replace(got, **{name: f(getattr(got, name)) for name, f in changes.items()})

    policy.predict = wrong
    return policy


def reading(*, without=None, **changes):
    """The toy policy that declares other inputs than it is given."""
    policy = ToyPolicy()
    policy.inputs = {
        name: replace(spec, **changes.get(name, {}))
        for name, spec in policy.inputs.items()
        if name != without
    }
    return policy


def blind():
    """The toy policy that names another camera."""
    policy = ToyPolicy()
    policy.cameras = ("observation.images.other",)
    return policy


def idle():
    """The toy policy with a trained parameter whose gradient is off."""
    policy = ToyPolicy()
    policy.module.head.bias.requires_grad_(False)
    return policy


VLM = ToyPolicy().module.vlm
FAULTS = {
    "group_of_dim has 4 entries": lambda: altered(
        group_of_dim=("xyz",) * 4, hidden_gripper_dims=()
    ),
    "unknown groups ['tail']": lambda: altered(
        group_of_dim=("xyz", "xyz", "gripper_logit", "tail", "other")
    ),
    "executed_dims (1, 0) not rising": lambda: altered(executed_dims=(1, 0)),
    "executed_dims () not rising": lambda: altered(executed_dims=()),
    "executed_dims (0, 9) not rising": lambda: altered(executed_dims=(0, 9)),
    "hidden_gripper_dims (2, 9) outside": lambda: altered(hidden_gripper_dims=(2, 9)),
    "not in group gripper_logit": lambda: altered(hidden_gripper_dims=(1, 2)),
    "executed_steps = 0": lambda: altered(executed_steps=0),
    "denoising_steps = 0": lambda: altered(denoising_steps=0),
    "env_dim = 0": lambda: altered(env_dim=0),
    "nothing is trained": lambda: claiming(
        without=[n for n, _ in ToyPolicy().trained_parameters().items()]
    ),
    "in both: vlm.bias": lambda: claiming(trained={"vlm.bias": VLM.bias}.items()),
    "in neither: vlm.bias": lambda: claiming(without=["vlm.bias"]),
    "not in the module: vlm.extra": lambda: claiming(frozen={"vlm.extra": VLM.bias}.items()),
    "another tensor than the module's: vlm.bias": lambda: claiming(
        frozen={"vlm.bias": nn.Parameter(torch.zeros(6))}.items()
    ),
    "requires_grad is off: head.bias": idle,
    "critic_features (2, 7)": lambda: encoding(critic_features=lambda v: v[:, 1:]),
    "primary view (2, 1, 6)": lambda: encoding(vlm_features=lambda v: v[:, :1]),
    "primary view (2, 2, 5)": lambda: encoding(vlm_features=lambda v: v[..., 1:]),
    "aux_visual_inputs (1, 1, 6)": lambda: encoding(aux_visual_inputs=lambda v: v[:1]),
    "proprio (1, 2)": lambda: encoding(proprio=lambda v: v[:1]),
    "declares ['domain_id'], prepares": lambda: reading(without="input_ids"),
    "input_ids is torch.int64 (2, 3), declared torch.int64 (2, 4)": lambda: reading(
        input_ids={"shape": (1, 4)}
    ),
    "input_ids is torch.int64 (2, 3), declared torch.float32": lambda: reading(
        input_ids={"dtype": torch.float32}
    ),
    "input_ids is above 0": lambda: reading(input_ids={"high": 0}),
    "input_ids is below 2": lambda: reading(input_ids={"low": 2}),
    "no cameras of its own": blind,
    "vlm_features is torch.float64": lambda: encoding(vlm_features=lambda v: v.double()),
    "proprio is not finite": lambda: encoding(proprio=lambda v: v / 0),
    "clean has shape (2, 4, 4)": lambda: predicting(clean=lambda v: v[..., 1:]),
    "features has shape (2, 3, 6)": lambda: predicting(features=lambda v: v[:, 1:]),
    "clean is torch.float64": lambda: predicting(clean=lambda v: v.double()),
    "features is not finite": lambda: predicting(features=lambda v: v / 0),
}
"""What the check must say -> a policy of which it is true."""


@pytest.mark.parametrize("says", FAULTS)
def test_each_fault_within_a_clause_is_named_with_what_was_found(says):
    report = check_flow_policy(FAULTS[says](), toy_observation())
    broken = [r for r in report.results if r.status is ClauseStatus.BROKEN]
    assert any(says in r.detail for r in broken), broken


def test_all_broken_clauses_are_reported_together():
    report = check_flow_policy(TwiceBroken(), toy_observation())
    assert set(report.failed) == {"postprocess-pure", "frozen"}


def test_a_clause_that_could_not_run_is_not_counted_as_kept():
    report = check_flow_policy(
        next(p for p, c in BROKEN.items() if c == "encode")(), toy_observation()
    )
    skipped = [r for r in report.results if r.status is ClauseStatus.NOT_RUN]
    assert "predict" in {r.name for r in skipped}
    assert all("encode" in r.detail or "predict" in r.detail for r in skipped)


def test_a_report_with_a_clause_that_could_not_run_is_no_pass():
    result = ClauseResult(name="a", says="b", status=ClauseStatus.NOT_RUN, detail="needs c")
    assert not ContractReport(results=(result,)).passed


@pytest.mark.parametrize("mode", ALL_MODES)
def test_every_action_mode_of_xvla_keeps_the_contract(mode):
    config = a_config(mode)
    policy = a_policy(config)
    assert isinstance(policy, FlowPolicy)
    report = check_flow_policy(policy, an_observation(config))
    assert report.failed == (), [r.detail for r in report.results if r.detail]
    assert report.passed


def test_check_leaves_the_policy_in_eval_mode_without_gradients():
    config = a_config()
    policy = a_policy(config)
    check_flow_policy(policy, an_observation(config, rows=1))
    assert not any(module.training for module in policy.module.modules())
    assert all(p.grad is None for p in policy.module.parameters())
