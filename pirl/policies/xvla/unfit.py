"""The clauses of the contract that an X-VLA config alone can break.

Owns the refusals that need no weights, asked by the preflight and by the adapter. Refuses to know observations
and to import LeRobot. Read `pirl.policies.xvla.build` next.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pirl.errors import ContractError, FieldError

STATE_WIDTH = {"ee6d": (20, None), "joint": (14, None), "so101_bimanual": (20, 20)}
"""Least and largest `max_state_dim` of the modes whose `preprocess` writes into the state's
grippers."""


def refuse_unfit_config(config: Any) -> None:
    """Refuse a policy config that RL cannot train.

    Any: either of the two `XVLAConfig`.

    Raises:
        ContractError: every reason at once.
    """
    errors = _clauses(config)
    if errors:
        raise ContractError(errors)


def unfit_fields(config: Any) -> list[FieldError]:
    """The same reasons under the names of the config fields."""
    return [replace(error, field=error.field.partition(": ")[2]) for error in _clauses(config)]


def _clauses(config: Any) -> list[FieldError]:
    return [
        *_precision(config),
        *_trained(config),
        *_normalization(config),
        *_shapes(config),
    ]


def _precision(config: Any) -> list[FieldError]:
    if config.dtype == "float32":
        return []
    return [
        FieldError(
            field="precision: policy.dtype",
            value=config.dtype,
            expected="float32: half precision moves log-probs by more than the clip range",
            fix="set policy.dtype=float32",
        )
    ]


def _trained(config: Any) -> list[FieldError]:
    return [
        FieldError(
            field=f"trained-parameters: policy.{name}",
            value=False,
            expected="true: RL trains all of model.transformer",
            fix=f"set policy.{name}=true",
        )
        for name in ("train_policy_transformer", "train_soft_prompts")
        if not getattr(config, name)
    ]


def _normalization(config: Any) -> list[FieldError]:
    return [
        FieldError(
            field=f"units: policy.normalization_mapping.{name}",
            value=config.normalization_mapping[name].value,
            expected="IDENTITY: pirl samples and stores actions and states in physical units",
            fix="use a checkpoint that was trained without state and action normalisation",
        )
        for name in ("VISUAL", "STATE", "ACTION")
        if name in config.normalization_mapping
        and config.normalization_mapping[name].value != "IDENTITY"
    ]


def _shapes(config: Any) -> list[FieldError]:
    errors: list[FieldError] = []
    width = config.max_state_dim if config.use_proprio else 0
    least, largest = STATE_WIDTH.get(config.action_mode.lower(), (0, None))
    if width < least or (largest is not None and width > largest):
        errors.append(
            FieldError(
                field="spec: policy.max_state_dim",
                value=width,
                expected=f"{least} {'or more' if largest is None else 'exactly'} with use_proprio "
                f"(action_mode={config.action_mode})",
                fix=f"set policy.max_state_dim={least}"
                if config.pretrained_path is None
                else "use another checkpoint: the weights of this one are for such a state",
            )
        )
    if config.num_denoising_steps < 1:
        errors.append(
            FieldError(
                field="spec: policy.num_denoising_steps",
                value=config.num_denoising_steps,
                expected="1 or more",
                fix="set policy.num_denoising_steps=5",
            )
        )
    if config.pad_language_to != "max_length":
        errors.append(
            FieldError(
                field="spec: policy.pad_language_to",
                value=config.pad_language_to,
                expected="max_length: decisions of different tasks share a batch",
                fix="set policy.pad_language_to=max_length",
            )
        )
    return errors
