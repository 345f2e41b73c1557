"""What a check of the verifier finds. Read `pirl.audit.verify_checks` next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason why a bundle is not what it should be."""

    check: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.check}: {self.where}: {self.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the caller knows about the run from elsewhere."""

    commit: str | None = None
    config_hash: str | None = None
    nonce: str | None = None
    digest: str | None = None


def problems(check: str, found: Mapping[str, str]) -> list[Problem]:
    return [Problem(check, where, what) for where, what in found.items() if what]


def layout(text: str, again: str) -> str:
    return "" if text == again else "not in the layout that a gate writes"
