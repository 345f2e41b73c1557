"""How a broken clause of the contract is said."""

from __future__ import annotations

from pirl.errors import ContractError, FieldError


def broken(clause: str, *, value: object, expected: str, fix: str) -> ContractError:
    """One broken clause as an error."""
    return ContractError([FieldError(field=clause, value=value, expected=expected, fix=fix)])
