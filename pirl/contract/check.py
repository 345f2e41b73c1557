"""The flow-policy contract as a program: every clause is run, every broken one is named.

Owns the report and the order of the clauses. Refuses to know any concrete policy. Read
`pirl.contract.check_shapes` and `pirl.contract.check_behaviour` next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from pirl.contract import check_behaviour, check_shapes
from pirl.contract.check_probe import Probe
from pirl.contract.flow_policy import FlowPolicy
from pirl.errors import PirlError
from pirl.records import Observation


class ClauseStatus(StrEnum):
    """What became of a clause."""

    KEPT = "kept"
    BROKEN = "broken"
    NOT_RUN = "not run"
    """A clause that it builds on is broken, so that it could say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClauseResult:
    """One clause, judged."""

    name: str
    says: str
    status: ClauseStatus
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractReport:
    """All clauses in order."""

    results: tuple[ClauseResult, ...]

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the broken clauses."""
        return tuple(r.name for r in self.results if r.status is ClauseStatus.BROKEN)

    @property
    def passed(self) -> bool:
        """Every clause ran and was kept."""
        return all(r.status is ClauseStatus.KEPT for r in self.results)


@dataclass(frozen=True, slots=True)
class _Clause:
    name: str
    says: str
    run: Callable[[Probe], str]
    """Returns what is wrong, or an empty string."""
    needs: tuple[str, ...] = ()


CLAUSES = (
    _Clause("protocol", "answers every question of FlowPolicy", check_shapes.protocol),
    _Clause(
        "spec",
        "dims, groups, steps and widths agree with each other",
        check_shapes.spec,
        ("protocol",),
    ),
    _Clause("eval-mode", "every module rests in eval mode", check_shapes.eval_mode, ("protocol",)),
    _Clause(
        "precision",
        "trained parameters are float32, TF32 as pirl.precision says",
        check_shapes.precision,
        ("protocol",),
    ),
    _Clause(
        "parameters",
        "trained and frozen parameters split the module's, under its state-dict names",
        check_shapes.parameters,
        ("protocol",),
    ),
    _Clause(
        "inputs",
        "an observation carries the declared inputs, and pictures of the policy's cameras",
        check_shapes.inputs,
        ("protocol",),
    ),
    _Clause(
        "encode",
        "features have the declared shapes and dtypes and are finite",
        check_shapes.encode,
        ("protocol", "spec", "eval-mode"),
    ),
    # Before any prediction: a leak from one into the features belongs to critic-features.
    _Clause(
        "encode-deterministic",
        "the same observation gives the same bits",
        check_behaviour.encode_deterministic,
        ("encode",),
    ),
    _Clause(
        "predict",
        "clean chunk [B, C, D] and features [B, C, W], finite",
        check_shapes.predict,
        ("encode",),
    ),
    _Clause(
        "postprocess",
        "environment chunk is [B, C, A]",
        check_shapes.postprocess,
        ("protocol", "spec"),
    ),
    _Clause(
        "postprocess-pure",
        "postprocess does not alter its argument",
        check_behaviour.postprocess_pure,
        ("postprocess",),
    ),
    _Clause(
        "predict-deterministic",
        "the same (x, t, context) gives the same bits",
        check_behaviour.predict_deterministic,
        ("predict",),
    ),
    _Clause(
        "train-mode-refused",
        "encode and predict raise ContractError in train mode",
        check_behaviour.train_mode_refused,
        ("predict",),
    ),
    _Clause(
        "trained-gradient",
        "the prediction has a gradient with respect to every trained parameter",
        check_behaviour.trained_gradient,
        ("predict", "parameters"),
    ),
    _Clause(
        "frozen",
        "no frozen parameter requires a gradient, and encoded features carry none",
        check_behaviour.frozen,
        ("encode", "parameters"),
    ),
    _Clause(
        "hidden-gripper",
        "hidden gripper channels of x do not change the prediction by a bit",
        check_behaviour.hidden_gripper,
        ("predict-deterministic",),
    ),
    _Clause(
        "visible-dims",
        "every other model dim of x does reach the prediction",
        check_behaviour.visible_dims,
        ("predict",),
    ),
    _Clause(
        "critic-features",
        "critic features are a function of the observation alone, detached",
        check_behaviour.critic_features,
        ("encode-deterministic", "predict"),
    ),
    _Clause(
        "padded-views",
        "pixels of a padded view change nothing",
        check_behaviour.padded_views,
        ("encode-deterministic",),
    ),
    _Clause(
        "batching",
        "a batch of mixed flow times equals its rows one by one, within rounding",
        check_behaviour.batching,
        ("predict-deterministic",),
    ),
)

_POLICY_ERRORS = (
    PirlError,
    ArithmeticError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


def check_flow_policy(policy: FlowPolicy, observation: Observation) -> ContractReport:
    """Run every clause on a policy with one real observation batch (B >= 1).

    Raises nothing for a broken policy: what a policy raises is a broken clause. Leaves the policy
    in eval mode, without gradients. Costs about ten network evaluations.
    """
    probe = Probe(policy=policy, observation=observation)
    results: list[ClauseResult] = []
    broken: set[str] = set()
    for clause in CLAUSES:
        missing = [name for name in clause.needs if name in broken]
        if missing:
            status, detail = ClauseStatus.NOT_RUN, f"needs {', '.join(missing)}"
        else:
            detail = _run(clause, probe)
            status = ClauseStatus.BROKEN if detail else ClauseStatus.KEPT
        if status is not ClauseStatus.KEPT:
            broken.add(clause.name)
        results.append(
            ClauseResult(name=clause.name, says=clause.says, status=status, detail=detail)
        )
    return ContractReport(results=tuple(results))


def _run(clause: _Clause, probe: Probe) -> str:
    try:
        return clause.run(probe)
    except _POLICY_ERRORS as error:
        return f"raised {type(error).__name__}: {error}"
