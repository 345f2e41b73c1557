"""Switches that turn one safety check off, so that a test can show what the check is worth.

Owns the environment variable `PIRL_TEST_DISABLE` (comma-separated names of `CHECKS`), nothing else.
Evidence carries `hooks_active()`, so a run with a check off can never be shown as an ordinary one.
Read `pirl.transport.identity` next for the first user.
"""

from __future__ import annotations

import logging
import os

from pirl.errors import ConfigError, FieldError

VARIABLE = "PIRL_TEST_DISABLE"
"""Read at every call: a test sets it for one process and never for a whole session."""

CHECKS = ("handshake", "manifest", "resume-optimizer", "parity")
"""Every check that can be turned off."""

_logger = logging.getLogger(__name__)


def hooks_active() -> tuple[str, ...]:
    """Names of the checks turned off in this process, in the order of `CHECKS`; normally empty.

    Raises:
        ConfigError: the variable names an unknown check; a typo must not look like a switch.
    """
    names = {name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()}
    unknown = sorted(names - set(CHECKS))
    if unknown:
        raise ConfigError(
            [
                FieldError(
                    field=VARIABLE,
                    value=",".join(unknown),
                    expected=f"names from {', '.join(CHECKS)}",
                    fix=f"unset {VARIABLE}; it exists for the gate's own teeth test",
                )
            ],
            source="environment",
        )
    return tuple(name for name in CHECKS if name in names)


def disabled(name: str) -> bool:
    """Whether the check `name` is turned off; every use of such a check is logged as CRITICAL.

    Raises:
        ConfigError: the variable names an unknown check.
        ValueError: `name` is not in `CHECKS`.
    """
    if name not in CHECKS:
        raise ValueError(f"{name!r} is not one of {CHECKS}")
    if name not in hooks_active():
        return False
    _logger.critical(
        "TEST HOOK ACTIVE: the %s check is DISABLED by %s; results are invalid", name, VARIABLE
    )
    return True
