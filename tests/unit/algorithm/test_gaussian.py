"""The three Gaussian formulas against torch.distributions."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from pirl.algorithm import gaussian
from pirl.algorithm.gaussian import GaussianStep
from pirl.errors import NumericsError


def draw(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def a_law(shape, dtype=torch.float64, seed=0):
    return GaussianStep(
        mean=draw(*shape, dtype=dtype, seed=seed),
        std=draw(*shape, dtype=dtype, seed=seed + 1).abs() + 0.01,
    )


def test_log_density_entropy_and_kl_equal_torch_distributions():
    law, other = a_law((50, 4)), a_law((50, 4), seed=5)
    value = draw(50, 4, seed=9)
    everywhere = torch.ones(50, 4, dtype=torch.bool)
    normal = Normal(law.mean, law.std)
    got = gaussian.log_density(value, law, mask=everywhere)
    torch.testing.assert_close(got, normal.log_prob(value), rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(gaussian.entropy(law.std), normal.entropy(), rtol=0, atol=1e-9)
    expected = kl_divergence(normal, Normal(other.mean, other.std))
    torch.testing.assert_close(gaussian.kl_divergence(law, other), expected, rtol=1e-12, atol=1e-9)


def test_sum_of_a_hundred_fp32_log_densities_is_accurate_to_1e4():
    law = a_law((100,))
    value = law.mean + law.std * draw(100, seed=3)
    single = GaussianStep(mean=law.mean.float(), std=law.std.float())
    exact = Normal(single.mean.double(), single.std.double()).log_prob(value.float().double())
    got = gaussian.log_density(value.float(), single, mask=torch.ones(100, dtype=torch.bool))
    assert abs(float(got.sum()) - float(exact.sum())) < 1e-4


def test_kl_with_equal_stds_is_the_scaled_squared_distance():
    law = a_law((20,))
    moved = GaussianStep(mean=law.mean + 0.3, std=law.std)
    expected = 0.09 / (2 * law.std**2)
    torch.testing.assert_close(gaussian.kl_divergence(law, moved), expected, rtol=1e-9, atol=1e-9)


def test_derivative_with_respect_to_std_is_that_of_the_formula():
    law, value = a_law((20,)), draw(20, seed=4)
    std = law.std.clone().requires_grad_()
    full = torch.ones(20, dtype=torch.bool)
    gaussian.log_density(value, GaussianStep(mean=law.mean, std=std), mask=full).sum().backward()
    z = (value - law.mean) / law.std
    torch.testing.assert_close(std.grad, (z**2 - 1) / law.std, rtol=1e-12, atol=1e-12)


def test_density_of_a_step_without_noise_is_an_error_that_names_the_place():
    std = torch.ones(2, 3)
    std[1, 2] = 0.0
    law = GaussianStep(mean=torch.zeros(2, 3), std=std)
    with pytest.raises(NumericsError, match=r"\(1, 2\)"):
        gaussian.log_density(torch.zeros(2, 3), law, mask=torch.ones(2, 3, dtype=torch.bool))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_value_that_is_not_finite_is_an_error(bad):
    value = torch.zeros(3)
    value[1] = bad
    law = GaussianStep(mean=torch.zeros(3), std=torch.ones(3))
    with pytest.raises(NumericsError, match=r"\(1,\)"):
        gaussian.log_density(value, law, mask=torch.ones(3, dtype=torch.bool))


def test_coordinates_outside_the_mask_contribute_zero_and_no_gradient():
    mean = torch.zeros(3, requires_grad=True)
    mask = torch.tensor([True, False, True])
    law = GaussianStep(mean=mean, std=torch.tensor([1.0, 0.0, 2.0]))
    got = gaussian.log_density(torch.ones(3), law, mask=mask)
    got.sum().backward()
    assert got[1] == 0
    assert mean.grad is not None
    assert mean.grad.tolist() == [1.0, 0.0, 0.25]
