"""Loss formulas against the tables of the specification and against autograd."""

from __future__ import annotations

import math

import pytest
import torch

from pirl.algorithm.loss import (
    behaviour_weight,
    interpolated_proximal,
    k3,
    masked_sum,
    ppo_surrogate,
    value_loss,
)


def surrogate(log_ratio: torch.Tensor, advantage: torch.Tensor):
    """The surrogate at the published clip settings, anchored at zero."""
    return ppo_surrogate(
        log_ratio,
        proximal=torch.zeros_like(log_ratio),
        advantage=advantage,
        clip_low=0.2,
        clip_high=0.2,
        clip_dual=3.0,
        log_ratio_clamp=20.0,
    )


GRADIENTS = {
    1.0: (-0.135, -0.741, -0.905, -1.0, -1.105, 0.0, 0.0),
    -1.0: (0.0, 0.0, 0.905, 1.0, 1.105, 1.350, 0.0),
}
LOG_RATIOS = (-2.0, -0.3, -0.1, 0.0, 0.1, 0.3, 2.0)


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_surrogate_gradient_is_the_table_of_clip_and_dual_clip(advantage):
    log_ratio = torch.tensor(LOG_RATIOS, requires_grad=True)
    surrogate(log_ratio, torch.full_like(log_ratio, advantage)).loss.sum().backward()
    torch.testing.assert_close(
        log_ratio.grad, torch.tensor(GRADIENTS[advantage]), atol=5e-4, rtol=0
    )


def test_flags_mark_exactly_the_samples_without_gradient():
    log_ratio = torch.tensor(LOG_RATIOS * 2, requires_grad=True)
    advantage = torch.tensor([1.0] * 7 + [-1.0] * 7)
    result = surrogate(log_ratio, advantage)
    result.loss.sum().backward()
    assert torch.equal(result.clipped | result.dual_clipped, log_ratio.grad == 0)
    assert int(result.dual_clipped.sum()) == 1


def test_gradient_at_ratio_one_is_minus_advantage():
    log_prob = torch.randn(20, dtype=torch.float64, requires_grad=True)
    advantage = torch.randn(20, dtype=torch.float64)
    ppo_surrogate(
        log_prob,
        proximal=log_prob.detach(),
        advantage=advantage,
        clip_low=0.2,
        clip_high=0.2,
        clip_dual=3.0,
        log_ratio_clamp=20.0,
    ).loss.sum().backward()
    torch.testing.assert_close(log_prob.grad, -advantage, atol=1e-12, rtol=0)


def test_a_huge_log_ratio_is_clamped_and_stays_finite():
    result = surrogate(torch.tensor([1e4, -1e4]), torch.tensor([-1.0, 1.0]))
    assert bool(torch.isfinite(result.loss).all())
    assert float(result.log_ratio.abs().max()) == 20.0


def test_behaviour_weight_times_ratio_is_the_full_importance_ratio():
    current, proximal, behaviour = torch.tensor([0.3]), torch.tensor([0.1]), torch.tensor([-0.2])
    weight = behaviour_weight(proximal, behaviour=behaviour, threshold=2.0, log_ratio_clamp=20.0)
    ratio = surrogate(current - proximal, torch.ones(1)).ratio
    assert float(weight.weight * ratio) == pytest.approx(math.exp(0.5))


def test_behaviour_weight_masks_above_the_threshold_and_carries_no_gradient():
    proximal = torch.tensor([0.0, 0.69, 0.70], requires_grad=True)
    weight = behaviour_weight(
        proximal, behaviour=torch.zeros(3), threshold=2.0, log_ratio_clamp=20.0
    )
    assert weight.admitted.tolist() == [True, True, False]
    assert not weight.weight.requires_grad


def test_interpolation_weights_are_0_0_half_and_two_thirds():
    alpha = interpolated_proximal(
        torch.ones(4), behaviour=torch.zeros(4), staleness=torch.tensor([0, 1, 2, 3])
    )
    torch.testing.assert_close(alpha, torch.tensor([0.0, 0.0, 0.5, 2 / 3]))


def test_value_loss_takes_the_worse_of_plain_and_clipped():
    loss = value_loss(
        torch.tensor([1.0, 0.1]),
        old_value=torch.tensor([0.0, 0.0]),
        target=torch.tensor([1.0, 1.0]),
        value_clip=0.2,
        huber_delta=10.0,
    )
    # First: V has left the clip range, so the clipped error (1 - 0.2)^2 / 2 counts.
    torch.testing.assert_close(loss, torch.tensor([0.5 * 0.8**2, 0.5 * 0.9**2]))


def test_value_loss_is_linear_beyond_the_huber_delta():
    loss = value_loss(
        torch.zeros(1),
        old_value=torch.zeros(1),
        target=torch.tensor([30.0]),
        value_clip=0.2,
        huber_delta=10.0,
    )
    assert float(loss) == pytest.approx(10.0 * (30.0 - 5.0))


def test_k3_estimates_the_kl_of_two_gaussians():
    rng = torch.Generator().manual_seed(0)
    shift = 0.3
    x = torch.randn(400_000, generator=rng, dtype=torch.float64)
    log_ratio = 0.5 * x.square() - 0.5 * (x - shift).square()
    estimate = k3(log_ratio)
    assert float(estimate.mean()) == pytest.approx(shift**2 / 2, rel=0.01)
    assert float(estimate.min()) >= 0.0


def test_masked_entries_do_not_poison_a_sum():
    terms = torch.tensor([1.0, float("nan"), 3.0])
    mask = torch.tensor([True, False, True])
    assert float(masked_sum(terms, weight=torch.ones(3), mask=mask)) == 4.0
