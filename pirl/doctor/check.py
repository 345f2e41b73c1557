"""One finding of the doctor. Read `pirl.doctor.main` for the list of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pirl.errors import PirlError


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding."""

    name: str
    ok: bool
    found: str
    remedy: str
    """What to do; empty when `ok`."""
    required: bool = True
    """False for what only some runs need (GPU, hub): shown, but no failure."""


def guarded(name: str, probe: Callable[[], str], *, remedy: str, required: bool = True) -> Check:
    """Run a probe that raises a deliberate error when the machine lacks something."""
    try:
        return Check(name=name, ok=True, found=probe(), remedy="", required=required)
    except PirlError as error:
        hint = getattr(error, "remedy", remedy)
        found = str(error).splitlines()[0]
        return Check(name=name, ok=False, found=found, remedy=str(hint), required=required)
