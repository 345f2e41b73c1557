"""The executable contract: what keeps it passes, and each way of breaking it has its own name."""

import json

import pytest
from contract_builders import ALL_MODES, a_config, a_policy, an_observation
from toy_policies import BROKEN, ToyPolicy, TwiceBroken, toy_observation

from pirl.contract.check import CLAUSES, ClauseStatus, check_flow_policy
from pirl.contract.flow_policy import FlowPolicy
from pirl.errors import ContractError


def test_toy_policy_keeps_every_clause():
    report = check_flow_policy(ToyPolicy(), toy_observation())
    assert report.failed == ()
    assert [r.name for r in report.results] == [clause.name for clause in CLAUSES]
    assert {r.status for r in report.results} == {ClauseStatus.KEPT}
    report.raise_if_failed()


@pytest.mark.parametrize("broken", BROKEN, ids=lambda cls: cls.__name__)
def test_broken_policy_is_named_by_exactly_its_clause(broken):
    report = check_flow_policy(broken(), toy_observation())
    assert report.failed == (BROKEN[broken],)
    assert not report.passed
    with pytest.raises(ContractError) as caught:
        report.raise_if_failed()
    assert [clause.field for clause in caught.value.clauses] == [BROKEN[broken]]


def test_every_clause_has_a_policy_that_breaks_it():
    assert set(BROKEN.values()) == {clause.name for clause in CLAUSES}


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


def test_report_is_plain_data():
    report = check_flow_policy(ToyPolicy(), toy_observation())
    assert json.loads(json.dumps(report.as_dict()))["passed"] is True


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
