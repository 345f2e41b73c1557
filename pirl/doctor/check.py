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
    required: bool
    """False for what only some runs need (GPU, hub): shown, but no failure."""


def finding(name: str, ok: bool, found: str, remedy: str, *, required: bool = True) -> Check:
    """A finding; its remedy is told only where something is to be mended."""
    return Check(name=name, ok=ok, found=found, remedy="" if ok else remedy, required=required)


def guarded(name: str, probe: Callable[[], str], *, remedy: str, required: bool = True) -> Check:
    """Run a probe that raises a deliberate error when the machine lacks something."""
    try:
        return finding(name, True, probe(), "", required=required)
    except PirlError as error:
        hint = str(getattr(error, "remedy", remedy))
        return finding(name, False, str(error).splitlines()[0], hint, required=required)
