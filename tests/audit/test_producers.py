"""No criterion without a test that spoils what a real producer makes of it."""

from __future__ import annotations

import test_producers_mismatch
import test_producers_resume
import test_producers_smoke
import test_producers_validate

from pirl.audit.policy import CRITERIA


def test_every_criterion_has_a_spoiled_producer():
    modules = (
        test_producers_validate, test_producers_smoke, test_producers_resume, test_producers_mismatch,
    )  # fmt: skip
    spoiled = [name for module in modules for name in module.SPOILS]
    assert sorted(spoiled) == sorted(criterion.name for criterion in CRITERIA)
