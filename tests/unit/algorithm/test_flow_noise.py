"""The learned noise head: bounds, reproducibility, gradients."""

import pytest
import torch
from flow_toys import (
    MixingPolicy,
    a_context,
    a_head,
    a_spec,
    flow_noise,
    generators,
)

from pirl.algorithm.chain import replay_log_prob, sample_chunk
from pirl.algorithm.flow_noise import NoiseHead
from pirl.config.recipe import FlowNoiseConfig


def head(seed=0, **knobs):
    return NoiseHead(
        feature_width=8,
        model_dim=5,
        settings=FlowNoiseConfig(**knobs),
        generator=torch.Generator().manual_seed(seed),
    )


@pytest.mark.parametrize("bias", [-50.0, 0.0, 50.0])
def test_std_stays_inside_the_configured_range(bias):
    # In fp32 exp(log(0.05)) rounds below 0.05, which a saturated tanh reaches.
    net = head(noise_std_range=(0.05, 0.24))
    features = torch.randn(50, 6, 8, generator=torch.Generator().manual_seed(1)) * 100
    with torch.no_grad():
        net.mlp[-1].bias.fill_(bias)
        std = net(features)
    assert std.shape == (50, 6, 5)
    assert bool((std >= torch.tensor(0.05)).all())
    assert bool((std <= torch.tensor(0.24)).all())


def test_range_is_interpolated_in_the_logarithm():
    middle = head()
    with torch.no_grad():
        middle.mlp[-1].weight.zero_()
        middle.mlp[-1].bias.zero_()
    expected = (0.08 * 0.16) ** 0.5
    torch.testing.assert_close(middle(torch.randn(3, 8)), torch.full((3, 5), expected))
    with torch.no_grad():
        middle.mlp[-1].bias.fill_(50.0)
    torch.testing.assert_close(middle(torch.randn(3, 8)), torch.full((3, 5), 0.16))


def test_weights_are_a_function_of_the_generator_alone():
    before = torch.random.get_rng_state()
    first, again, other = head(seed=3), head(seed=3), head(seed=4)
    assert torch.equal(torch.random.get_rng_state(), before)
    for a, b, c in zip(first.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_hidden_layers_are_those_of_the_recipe():
    widths = [tuple(p.shape) for p in head(noise_head_hidden=(16, 12)).parameters() if p.ndim == 2]
    assert widths == [(16, 8), (12, 16), (5, 12)]


@pytest.mark.parametrize("detach", [False, True])
def test_detached_head_sends_no_gradient_into_the_features(detach):
    features = torch.randn(3, 8, requires_grad=True)
    head(noise_head_detach=detach)(features).sum().backward()
    assert (features.grad is None) == detach


def test_gradient_of_the_log_prob_in_head_weights_equals_finite_differences():
    spec, pirl = a_spec(steps=3), flow_noise(noise={"joint_reduction": "sum"})
    policy, net = MixingPolicy(spec), a_head(spec, pirl, width=8)
    drawn = sample_chunk(policy, a_context(3), pirl=pirl, noise_head=net, rngs=generators(3))
    fields = {name: v.double() if v.is_floating_point() else v for name, v in drawn.fields.items()}
    policy.module.double()
    net.double()

    def log_prob():
        context = a_context(3, dtype=torch.float64)
        replayed = replay_log_prob(policy, context, fields=fields, pirl=pirl, noise_head=net)
        return replayed.log_prob.sum()

    parameters = list(net.parameters())
    gradients = torch.autograd.grad(log_prob(), parameters)
    rng = torch.Generator().manual_seed(0)
    direction = [torch.randn(p.shape, generator=rng, dtype=p.dtype) for p in parameters]
    analytic = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
    h, values = 1e-5, []
    with torch.no_grad():
        for sign in (1, -2):
            for p, d in zip(parameters, direction, strict=True):
                p.add_(d, alpha=sign * h)
            values.append(float(log_prob()))
    assert (values[0] - values[1]) / (2 * h) == pytest.approx(analytic, rel=1e-7)
