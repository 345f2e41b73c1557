"""The mean std that an update reports is that of the noise that counts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from pirl.algorithm.objective import _mean_std


@pytest.mark.parametrize(
    ("counts", "live", "mean"),
    [
        ([True, True], [True, True], 2.5),
        ([True, False], [True, True], 2.0),
        ([True, True], [True, False], 1.5),
        ([False, False], [True, True], 0.0),
        ([True, True], [False, False], 0.0),
    ],
)
def test_only_noise_that_counts_in_live_rows_is_averaged(counts, live, mean):
    """Two rows of two elements: stds 1 and 2, then 3 and 4."""
    std = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    mask = torch.tensor([counts, counts])
    replayed = SimpleNamespace(std=std.reshape(2, 1, 1, 2), step_mask=mask.reshape(2, 1, 1, 2))
    assert _mean_std(replayed, torch.tensor(live)) == mean
