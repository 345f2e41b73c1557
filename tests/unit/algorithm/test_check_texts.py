"""A broken check names the decision, its step and the values, shortened."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from pirl.algorithm.checks import _describe, _shown, require_finite, require_ratio_one
from pirl.algorithm.diagnostics import RatioStats
from pirl.errors import NumericsError

FIELDS = {
    "pirl_episode_id": torch.tensor([4, 5]),
    "pirl_chunk_idx": torch.tensor([6, 7]),
    "pirl_version": torch.tensor([8, 9]),
}


def test_a_decision_is_named_with_its_step_or_with_all():
    prepared = SimpleNamespace(fields=FIELDS)
    where = "decision: row 1, episode 5, chunk 7"
    assert _describe(prepared, 1) == f"{where}, all k, acted under version 9"
    prepared = SimpleNamespace(fields=FIELDS | {"pirl_denoise_idx": torch.tensor([0, 3])})
    assert _describe(prepared, 1) == f"{where}, k=3, acted under version 9"


@pytest.mark.parametrize(
    ("count", "shown"),
    [(1, "0"), (4, "0, 1, 2, 3"), (5, "0, 1, 2, 3, ... (5 samples)")],
)
def test_values_are_shown_up_to_four(count, shown):
    assert _shown(torch.arange(float(count))) == shown
    assert _shown(torch.arange(float(count)).reshape(-1, 1)) == shown


def test_the_first_tensor_that_is_not_finite_is_named_with_how_much_of_it():
    good, bad = torch.ones(3), torch.tensor([1.0, torch.nan, torch.inf])
    require_finite({"a": good, "b": good}, what="loss")
    with pytest.raises(NumericsError, match="loss b: 2 of 3 values"):
        require_finite({"a": good, "b": bad, "c": bad}, what="loss")


@pytest.mark.parametrize(
    ("samples", "off", "is_refused"),
    [(1, 0.5, False), (1, 0.6, True), (1, float("nan"), True), (0, 0.6, False)],
)
def test_ratios_may_be_off_by_the_tolerance(samples, off, is_refused):
    stats = RatioStats(samples=samples, max_abs=off)
    if is_refused:
        with pytest.raises(NumericsError, match="before the first optimiser step"):
            require_ratio_one(stats, tolerance=0.5)
    else:
        require_ratio_one(stats, tolerance=0.5)
