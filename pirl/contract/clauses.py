"""How a broken clause of the contract is said."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pirl.errors import ContractError, FieldError

if TYPE_CHECKING:
    from torch import nn


def broken(clause: str, *, value: object, expected: str, fix: str) -> ContractError:
    """One broken clause as an error."""
    return ContractError([FieldError(field=clause, value=value, expected=expected, fix=fix)])


def require_eval_mode(modules: Iterable[nn.Module]) -> None:
    """Refuse a policy of which any module is in train mode.

    Raises:
        ContractError: `eval-mode`.
    """
    if any(module.training for module in modules):
        raise broken(
            "eval-mode",
            value="training",
            expected="every module in eval mode: dropout 0.1 would ruin the ratio",
            fix="call eval_mode() or module.eval() after anything that calls train()",
        )
