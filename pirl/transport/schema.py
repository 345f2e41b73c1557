"""What a transition may look like: every key, dtype, shape and range, known before one arrives.

Owns the check; the fields are those of `pirl.decision` and the policy's own inputs. Refuses to know bytes and
sockets. Read `pirl.transport.wire` next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from lerobot.utils.transition import Transition
from torch import Tensor

from pirl.config.recipe import PiRLConfig
from pirl.decision import MAX_MAGNITUDE, decision_fields
from pirl.errors import ContractError, FieldError, TransportError
from pirl.records import FIELD_PREFIX, ActionSpec, TensorSpec
from pirl.transport.refusal import RefusedMessageError

_KEYS = frozenset(Transition.__annotations__)


def check_tensor(spec: TensorSpec, value: object, name: str) -> Tensor:
    """`value`, if it is such a tensor.

    Raises:
        TransportError: says what differs.
    """
    if not isinstance(value, Tensor):
        raise TransportError(f"{name} is {type(value).__name__}, not a tensor")
    if value.dtype != spec.dtype or tuple(value.shape) != spec.shape:
        raise TransportError(
            f"{name} is {value.dtype} {tuple(value.shape)}, must be {spec.dtype} {spec.shape}"
        )
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise RefusedMessageError("not_finite", f"{name} holds values that are not finite")
    low = -math.inf if spec.low is None else spec.low
    high = math.inf if spec.high is None else spec.high
    if bool((value < low).any()) or bool((value > high).any()):
        raise RefusedMessageError("out_of_range", f"{name} holds values outside {low:g}..{high:g}")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitionSchema:
    """Exactly what one run's transitions hold; anything else is refused."""

    state: Mapping[str, TensorSpec]
    action: TensorSpec
    info: Mapping[str, TensorSpec]
    max_reward: float = math.inf
    """Largest |reward| of one decision."""

    @property
    def tensors_per_transition(self) -> int:
        """Most storages a transition can need."""
        return 2 * len(self.state) + 1 + len(self.info)

    @property
    def bytes_per_transition(self) -> int:
        """Most bytes that the tensors of one transition can need."""
        specs = (*self.state.values(), *self.state.values(), self.action, *self.info.values())
        return sum(spec.num_bytes for spec in specs)

    def check(self, item: object, row: int) -> Transition:
        """`item` as a transition of this schema.

        Raises:
            TransportError: names row and field of the first violation.
        """
        where = f"transition {row}"
        fields = _exact_dict(item, _KEYS, where)
        _check_tensors(fields["state"], self.state, f"{where} state")
        _check_tensors(fields["next_state"], self.state, f"{where} next_state")
        check_tensor(self.action, fields["action"], f"{where} action")
        _check_tensors(fields["complementary_info"], self.info, f"{where} complementary_info")
        reward = fields["reward"]
        if type(reward) is not float or not math.isfinite(reward):
            raise RefusedMessageError("not_finite", f"{where} reward is not a finite float")
        if abs(reward) > self.max_reward:
            raise RefusedMessageError(
                "out_of_range", f"{where} reward {reward:g} is beyond {self.max_reward:g}"
            )
        for name in ("done", "truncated"):
            if type(fields[name]) is not bool:
                raise TransportError(f"{where} {name} is not a bool")
        return Transition(**fields)  # pyright: ignore[reportArgumentType]  # checked field by field


def transition_schema(
    spec: ActionSpec,
    pirl: PiRLConfig,
    *,
    image_shapes: Mapping[str, tuple[int, int, int]],
    state_dim: int,
    inputs: Mapping[str, TensorSpec],
    max_step_reward: float = MAX_MAGNITUDE,
) -> TransitionSchema:
    """The schema of a recipe (`algorithm.md` 13.1).

    Args:
        image_shapes: `(3, h, w)` per `observation.images.*` key, uint8.
        state_dim: S, width of `observation.state`.
        inputs: what else the policy reads (`FlowPolicy.inputs`); each travels under `pirl_NAME`.
        max_step_reward: largest |reward| of one control action.

    Raises:
        ContractError: an input of the policy has the name of a field of piRL's own.
    """
    rows, width = spec.executed_steps, spec.model_dim
    state = {
        name: TensorSpec(dtype=torch.uint8, shape=(1, *shape))
        for name, shape in image_shapes.items()
    }
    state["observation.state"] = _numbers(1, state_dim)
    info = decision_fields(spec, pirl, max_step_reward=max_step_reward)
    told = {FIELD_PREFIX + name: tensor for name, tensor in inputs.items()}
    _refuse_taken(sorted(told.keys() & info.keys()))
    return TransitionSchema(
        state=state,
        action=_numbers(1, rows, width),
        info=info | told,
        max_reward=rows * max_step_reward,
    )


def _numbers(*shape: int) -> TensorSpec:
    """float32 of any sensible size."""
    return TensorSpec(dtype=torch.float32, shape=shape, low=-MAX_MAGNITUDE, high=MAX_MAGNITUDE)


def _refuse_taken(names: list[str]) -> None:
    if not names:
        return
    clause = FieldError(
        field="inputs",
        value=names,
        expected="names that no field of piRL's own has",
        fix="rename the policy's inputs",
    )
    raise ContractError([clause])


def _exact_dict(value: object, keys: frozenset[str], where: str) -> dict[str, object]:
    if type(value) is not dict:
        raise TransportError(f"{where} is {type(value).__name__}, not a dict")
    if value.keys() != keys:
        extra, missing = sorted(value.keys() - keys)[:8], sorted(keys - value.keys())[:8]
        raise TransportError(f"{where}: unexpected keys {extra!r:.300}, missing keys {missing!r}")
    return value


def _check_tensors(value: object, specs: Mapping[str, TensorSpec], where: str) -> None:
    tensors = _exact_dict(value, frozenset(specs), where)
    for name, spec in specs.items():
        check_tensor(spec, tensors[name], f"{where} {name}")
