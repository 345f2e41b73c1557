"""What the score-function gradients of each variant estimate, against finite differences."""

import pytest
import torch
from flow_toys import (
    AffinePolicy,
    a_context,
    a_plain_spec,
    a_spec,
    at_step,
    flow_noise,
    flow_sde,
    generators,
)

from pirl.algorithm.chain import replay_log_prob, sample_chunk
from pirl.algorithm.flow_noise import NoiseHead
from pirl.algorithm.transition import build_tables, refresh_carried, transition
from pirl.config.recipe import FlowNoiseConfig
from pirl.records import Prediction

STEPS = 4
SAMPLES = 100_000
THETA = torch.tensor([0.3, 0.4, -0.2])


def reward(chunk):
    """Smooth, and far from its optimum, so that every gradient component is clearly not zero."""
    return -((chunk - 1.0) ** 2)


def draw(policy, pirl, *, head=None, rows=1, seed=3):
    return sample_chunk(
        policy, a_context(rows), pirl=pirl, noise_head=head, rngs=generators(rows, seed=seed)
    )


def distance(estimate, expected):
    """Length of the difference over the length of what was expected."""
    return float((estimate - expected).norm() / expected.norm())


def score_gradient(policy, pirl, drawn, weights, *, head=None, parameters):
    """Mean over samples of (reward - mean reward) times the gradient of the log-prob."""
    rows = len(drawn.chunk)
    replayed = replay_log_prob(
        policy, a_context(rows), fields=drawn.fields, pirl=pirl, noise_head=head
    )
    per_sample = replayed.log_prob[:, 0] * (weights - weights.mean())
    return torch.autograd.grad(per_sample.sum() / weights.numel(), parameters)


def finite_difference(policy, pirl, index, *, head=None, h=1e-2):
    """Derivative of the mean reward in one parameter of every step, common random numbers."""
    values = []
    for sign in (1, -1):
        policy.shift = torch.zeros_like(THETA)
        policy.shift[index] = sign * h
        values.append(reward(draw(policy, pirl, head=head).chunk).double().mean())
    policy.shift = torch.zeros_like(THETA)
    return float(values[0] - values[1]) / (2 * h)


def rest_of_chain(policy, pirl, x_next, *, k, x_k, noise):
    """Chunk that follows x_{k+1} under the behaviour weights: for the agent, the environment."""
    tables = build_tables(policy.spec, pirl)
    nowhere, context = torch.zeros(1, dtype=torch.bool), a_context(1)

    def clean_at(x, i):
        return policy.predict(context, x, tables.time[i].expand(1)).clean.detach()

    x, carried = x_next, noise
    if k + 1 < STEPS:
        std = torch.ones_like(x)
        carried = refresh_carried(
            tables, step=k, x_next=x, clean=clean_at(x_k, k), carried=noise, std=std
        )
    for i in range(k + 1, STEPS):
        # Only x carries a derivative from here on; the prediction's own slope in x is known.
        slope = float(policy.theta[1].detach())
        clean = clean_at(x, i) + slope * (x - x.detach())
        x = transition(
            tables, step=torch.tensor([i]), x=x, clean=clean, carried=carried, stochastic=nowhere
        ).mean
    return x


def derivative_of_the_stochastic_step(policy, pirl, drawn, *, k, parameters):
    """Pathwise derivative of the mean reward through the mean of step k and nothing else."""
    fields = drawn.fields
    replayed = replay_log_prob(policy, a_context(1), fields=fields, pirl=pirl, noise_head=None)
    mean = replayed.mean[:, 0]
    chunk = rest_of_chain(
        policy,
        pirl,
        fields["pirl_x_next"] + mean - mean.detach(),
        k=k,
        x_k=fields["pirl_x_k"],
        noise=fields["pirl_noise"],
    )
    torch.testing.assert_close(chunk.detach(), drawn.chunk, rtol=0, atol=1e-5)
    return torch.autograd.grad(reward(chunk).mean(), parameters)


def affine(samples=SAMPLES):
    theta = THETA.clone().requires_grad_()
    return AffinePolicy(a_plain_spec(steps=STEPS, chunk=samples), theta), theta


@pytest.mark.parametrize("base", ["euler", "native"])
def test_hybrid_gradient_is_that_of_the_stochastic_step_alone(base):
    policy, theta = affine()
    estimate, expected, total = torch.zeros(3), torch.zeros(3), 0.0
    for k in range(STEPS):
        pirl = flow_sde(sde=at_step(k, STEPS), base_sampler=base, last_step_rule="sde")
        drawn = draw(policy, pirl)
        (gradient,) = score_gradient(policy, pirl, drawn, reward(drawn.chunk), parameters=[theta])
        (exact,) = derivative_of_the_stochastic_step(policy, pirl, drawn, k=k, parameters=[theta])
        estimate, expected = estimate + gradient / STEPS, expected + exact / STEPS
        total += finite_difference(policy, pirl, 0) / STEPS
    assert distance(estimate, expected) < 0.01
    # A semi-gradient: aligned with the total derivative, and smaller.
    assert 0.1 < float(expected[0]) / total < 0.6


@pytest.mark.parametrize("base", ["euler", "native"])
def test_flow_noise_gradient_is_the_total_one_and_its_mean_a_share_of_it(base):
    policy, theta = affine()
    knobs = {"noise_std_range": (0.2, 0.6), "noise_head_hidden": ()}
    head = NoiseHead(
        feature_width=2,
        model_dim=1,
        settings=FlowNoiseConfig(**knobs),
        generator=torch.Generator().manual_seed(0),
    )
    bias = head.mlp[-1].bias
    by_reduction = {}
    for reduction in ("sum", "mean"):
        pirl = flow_noise(
            base_sampler=base, last_step_rule="sde", noise={"joint_reduction": reduction, **knobs}
        )
        drawn = draw(policy, pirl, head=head)
        by_reduction[reduction] = score_gradient(
            policy, pirl, drawn, reward(drawn.chunk), head=head, parameters=[theta, bias]
        )
    by_theta, by_bias = by_reduction["sum"]
    expected = torch.tensor([finite_difference(policy, pirl, i, head=head) for i in range(3)])
    assert float(by_theta[0]) == pytest.approx(float(expected[0]), rel=0.01)
    assert distance(by_theta, expected) < 0.01
    for whole, share in zip(by_reduction["sum"], by_reduction["mean"], strict=True):
        torch.testing.assert_close(share * (STEPS + 1), whole, rtol=1e-5, atol=0)
    values = []
    with torch.no_grad():
        for move in (0.02, -0.04):
            bias += move
            values.append(reward(draw(policy, pirl, head=head).chunk).double().mean())
    by_difference = float(values[0] - values[1]) / 0.04
    assert float(by_bias) == pytest.approx(by_difference, rel=0.05, abs=0.005)


class BlindPolicy(AffinePolicy):
    """Never reads the gripper channel, as X-VLA's `preprocess` makes sure."""

    def predict(self, context, x, t) -> Prediction:
        seen = x.clone()
        seen[..., list(self.spec.hidden_gripper_dims)] = 0
        return super().predict(context, seen, t)


@pytest.mark.parametrize("k", range(STEPS - 1))
def test_gripper_noise_before_the_last_step_would_add_a_gradient_of_mean_zero(k):
    spec = a_spec(
        steps=STEPS,
        chunk=50_000,
        executed=50_000,
        groups=("other", "gripper_logit"),
        executed_dims=(0, 1),
    )
    theta = THETA.clone().requires_grad_()
    policy = BlindPolicy(spec, theta)
    pirl = flow_sde(sde=at_step(k, STEPS), noise_on_unused=True)
    drawn = draw(policy, pirl)
    replayed = replay_log_prob(
        policy, a_context(1), fields=drawn.fields, pirl=pirl, noise_head=None
    )
    assert not replayed.mask[..., 1].any()
    mean, state = replayed.mean[0, 0, :, 1], drawn.fields["pirl_x_next"][0, :, 1]
    executed = drawn.chunk[0, :, 0] + drawn.chunk[0, :, 1]
    advantage = reward(executed) - reward(executed).mean()
    # The mean of a blind network depends on b0 and b2 alone, with slope 1 and t.
    score = (state - mean).detach() * advantage
    error = float(score.std()) / len(score) ** 0.5
    assert error > 0
    assert abs(float(score.mean())) < 3 * error


def test_gradient_of_a_bernoulli_gripper_is_the_exact_one():
    spec = a_spec(
        steps=2,
        chunk=SAMPLES,
        executed=SAMPLES,
        groups=("other", "gripper_logit"),
        executed_dims=(0, 1),
    )
    logit = torch.tensor([0.8, 0.0, 0.0], requires_grad=True)
    policy = BlindPolicy(spec, logit)
    pirl = flow_sde(gripper_mode="bernoulli", sde=at_step(0, 2))
    drawn = draw(policy, pirl, rows=4)
    closed = drawn.fields["pirl_gripper"][..., 0].float()
    (gradient,) = score_gradient(
        policy, pirl, drawn, closed[..., None].expand(-1, -1, 2), parameters=[logit]
    )
    p = torch.sigmoid(torch.tensor(0.8))
    assert float(closed.mean()) == pytest.approx(float(p), rel=0.01)
    # The estimator averages over both channels, the gripper is one of them.
    assert float(gradient[0]) * 2 == pytest.approx(float(p * (1 - p)), rel=0.01)
