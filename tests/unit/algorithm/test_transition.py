"""One denoising step: four written forms agree, ends behave, marginals survive, masks hold."""

import math

import pytest
import torch
from flow_toys import a_plain_spec, a_spec, exact_clean, flow_noise, flow_sde

from pirl.algorithm.schedule import step_noise
from pirl.algorithm.transition import (
    build_tables,
    flow_noise_settings,
    flow_sde_settings,
    refresh_carried,
    transition,
)
from pirl.errors import ConfigError, ContractError

F64 = torch.float64


def plain(num_steps, *, dims=1, dtype=F64, **knobs):
    knobs = {"base_sampler": "euler", "last_step_rule": "sde"} | knobs
    return build_tables(a_plain_spec(steps=num_steps, dims=dims), flow_sde(**knobs), dtype=dtype)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def law_at(tables, k, *, x, clean, carried=None, **knobs):
    rows = len(x)
    step = torch.full((rows,), k)
    carried = torch.zeros_like(x) if carried is None else carried
    return transition(tables, step=step, x=x, clean=clean, carried=carried, **knobs)


@pytest.mark.parametrize("num_steps", [1, 2, 4, 10])
def test_prediction_velocity_weight_and_score_forms_are_one_step(num_steps):
    tables, delta, level = plain(num_steps), 1 / num_steps, 0.5
    x, clean = randn(64, 1, 1), randn(64, 1, 1, seed=1)
    for k in range(num_steps):
        t = 1 - k * delta
        sigma = level * math.sqrt(t / (1 - (t if k else 1 - delta)))
        velocity = (x - clean) / t
        grpo = (
            x * (1 - sigma**2 * delta / (2 * t))
            - velocity * (1 + sigma**2 * (1 - t) / (2 * t)) * delta
        )
        x0_pred, x1_pred = x - velocity * t, x + velocity * (1 - t)
        rlinf = (1 - (t - delta)) * x0_pred + (t - delta - sigma**2 * delta / (2 * t)) * x1_pred
        score = -(x + (1 - t) * velocity) / t
        by_score = x - delta * velocity + 0.5 * sigma**2 * delta * score
        law = law_at(tables, k, x=x, clean=clean)
        for other in (grpo, rlinf, by_score):
            torch.testing.assert_close(law.mean, other, rtol=0, atol=1e-12)
        assert float(law.std[0]) == pytest.approx(sigma * math.sqrt(delta), abs=1e-12)


@pytest.mark.parametrize("level", [0.1, 1e-2, 1e-3, 1e-4])
def test_mean_approaches_the_ode_step_with_the_square_of_the_noise_level(level):
    tables = plain(10, sde={"noise_level": level})
    x, clean = randn(100, 1, 1).clamp(-2, 2), randn(100, 1, 1, seed=1).clamp(-2, 2)
    nowhere = torch.zeros(100, dtype=torch.bool)
    worst = 0.0
    for k in range(10):
        noisy = law_at(tables, k, x=x, clean=clean).mean
        ode = law_at(tables, k, x=x, clean=clean, stochastic=nowhere).mean
        noise_estimate = (x - (1 - tables.time[k]) * clean) / tables.time[k]
        worst = max(worst, float(((noisy - ode) / noise_estimate.abs().clamp(min=1)).abs().max()))
    assert 0 < worst <= 2 * level**2


def test_mean_without_noise_is_the_ode_step_exactly():
    tables = plain(10, sde={"noise_level": 0.0})
    x, clean = randn(100, 1, 1), randn(100, 1, 1, seed=1)
    nowhere = torch.zeros(100, dtype=torch.bool)
    for k in range(10):
        quiet = law_at(tables, k, x=x, clean=clean)
        ode = law_at(tables, k, x=x, clean=clean, stochastic=nowhere)
        assert torch.equal(quiet.mean, ode.mean)
        assert not quiet.std.any()


@pytest.mark.parametrize("base", ["euler", "native"])
@pytest.mark.parametrize("num_steps", [2, 4, 10])
def test_sensitivity_to_the_prediction_is_the_derived_one(base, num_steps):
    level, delta = 0.5, 1 / num_steps
    tables = plain(num_steps, base_sampler=base)
    for k in range(num_steps):
        clean = randn(1, 1, 1).requires_grad_()
        law = law_at(
            tables, k, x=randn(1, 1, 1, seed=1), clean=clean, carried=randn(1, 1, 1, seed=2)
        )
        (slope,) = torch.autograd.grad(law.mean.sum(), clean)
        t, t_next = 1 - k * delta, 1 - (k + 1) * delta
        euler = delta if k == 0 else (delta / t) * (1 + level**2 / 2)
        assert float(slope) == pytest.approx(euler if base == "euler" else 1 - t_next, abs=1e-9)


def final_moments(num_steps, *, mean, std, stochastic=True):
    """Exact mean and std of the chain's end on Gaussian data: every step is affine in x."""
    tables = plain(num_steps)
    chain_mean, chain_var = 0.0, 1.0
    flag = torch.tensor([stochastic, stochastic])
    for k in range(num_steps):
        x = torch.tensor([0.0, 1.0], dtype=F64)[:, None, None]
        clean = exact_clean(x, float(tables.time[k]), mean=mean, std=std)
        law = law_at(tables, k, x=x, clean=clean, stochastic=flag)
        offset, at_one = (float(v) for v in law.mean.flatten())
        slope = at_one - offset
        chain_mean = offset + slope * chain_mean
        chain_var = slope**2 * chain_var + float(law.std[0]) ** 2
    return chain_mean, math.sqrt(chain_var)


def test_flow_sde_with_the_exact_predictor_returns_the_data_distribution():
    mean, std = final_moments(200, mean=0.3, std=0.3)
    assert mean == pytest.approx(0.3, abs=1e-9)
    assert std == pytest.approx(0.3, rel=0.01)


def literal_noise_at_zero(num_steps, *, mean, std, level=0.5):
    """The paper's formulas read with noise at time 0 and step +1/K: wrong on purpose.

    drift = v - sigma^2 score/2, score = -x/tau - (1 - tau) v/tau, sigma^2 = a^2 tau/(1 - tau).
    """
    delta, chain_mean, chain_var = 1 / num_steps, 0.0, 1.0
    for k in range(num_steps):
        tau, at = k * delta, []
        for x in (0.0, 1.0):
            point = torch.tensor([[[x]]], dtype=F64)
            clean = float(exact_clean(point, 1 - tau, mean=mean, std=std))
            velocity = (clean - x) / (1 - tau)
            drift = level**2 / (2 * (1 - tau)) * (x + (1 - tau) * velocity)
            at.append(x + delta * (velocity + drift))
        slope = at[1] - at[0]
        chain_mean = at[0] + slope * chain_mean
        chain_var = slope**2 * chain_var + level**2 * tau / (1 - tau) * delta
    return chain_mean, math.sqrt(chain_var)


def test_literal_noise_at_zero_reading_of_the_paper_misses_the_data_distribution():
    ours = final_moments(10, mean=0.3, std=0.3)
    literal = literal_noise_at_zero(10, mean=0.3, std=0.3)
    assert abs(ours[0] - 0.3) < 1e-9
    assert abs(ours[1] - 0.3) < 0.04
    assert literal == pytest.approx((0.395, 0.740), abs=2e-3)


@pytest.mark.parametrize("noised", [(0, 1), (0,)])
def test_noise_on_some_channels_keeps_the_marginals_of_correlated_data(noised):
    num_steps = 100
    spec = a_spec(
        steps=num_steps, chunk=1, executed=1, groups=("other", "other"), executed_dims=noised
    )
    pirl = flow_sde(base_sampler="euler", last_step_rule="sde")
    tables = build_tables(spec, pirl, dtype=F64)
    data = torch.tensor([[0.09, 0.045], [0.045, 0.09]], dtype=F64)
    identity = torch.eye(2, dtype=F64)
    covariance = identity.clone()
    for k in range(num_steps):
        t = float(tables.time[k])
        gain = (1 - t) * data @ torch.linalg.inv((1 - t) ** 2 * data + t**2 * identity)
        x = identity[:, None]
        law = law_at(tables, k, x=x, clean=(x @ gain.T))
        step = law.mean[:, 0].T
        covariance = step @ covariance @ step.T + torch.diag(law.std[0, 0] ** 2)
    error = torch.linalg.norm(covariance - data) / torch.linalg.norm(data)
    assert float(error) < 0.03


@pytest.mark.parametrize("base", ["native", "euler"])
def test_coordinates_without_noise_take_the_samplers_own_step_bit_for_bit(base):
    spec = a_spec(steps=5)
    for pirl in (flow_sde(base_sampler=base), flow_noise(base_sampler=base)):
        tables = build_tables(spec, pirl)
        x, clean, carried = (randn(3, 6, 5, seed=i).float() for i in range(3))
        nowhere = torch.zeros(3, dtype=torch.bool)
        for k in range(5):
            noisy = law_at(tables, k, x=x, clean=clean, carried=carried)
            own = law_at(tables, k, x=x, clean=clean, carried=carried, stochastic=nowhere)
            quiet = noisy.std == 0
            assert quiet.any()
            assert not own.std.any()
            assert torch.equal(noisy.mean[quiet], own.mean[quiet])


def test_additive_last_step_centres_on_the_prediction_with_the_groups_own_std():
    tables = build_tables(a_spec(steps=5), flow_sde())
    clean = randn(2, 6, 5).float()
    law = law_at(tables, 4, x=randn(2, 6, 5, seed=1).float(), clean=clean, carried=clean + 9)
    assert torch.equal(law.mean, clean)
    expected = torch.tensor([0.005, 0.005, 0.02, 1.0, 0.0])
    assert torch.equal(law.std[:, :4], expected.expand(2, 4, 5))
    assert not law.std[:, 4:].any()


def test_sde_last_step_keeps_the_papers_std_and_drift():
    tables = build_tables(a_spec(steps=5), flow_sde(last_step_rule="sde"))
    noise = step_noise(4, 5, method="flow_sde", noise_level=0.5)
    carried = randn(1, 6, 5).float()
    law = law_at(tables, 4, x=carried, clean=torch.zeros_like(carried), carried=carried)
    torch.testing.assert_close(law.std[0, :4, :4], torch.full((4, 4), noise.std))
    torch.testing.assert_close(law.mean[0, :4, :4], noise.weight * carried[0, :4, :4])
    assert not law.mean[0, 4:].any()


@pytest.mark.parametrize("rule", ["additive", "sde"])
def test_flow_noise_keeps_the_ode_mean_and_scales_the_last_std_into_action_units(rule):
    tables = build_tables(a_spec(steps=5), flow_noise(last_step_rule=rule))
    x, clean, carried = (randn(2, 6, 5, seed=i).float() for i in range(3))
    learned = torch.full_like(x, 0.12)
    nowhere = torch.zeros(2, dtype=torch.bool)
    for k in range(5):
        law = law_at(tables, k, x=x, clean=clean, carried=carried, learned_std=learned)
        own = law_at(tables, k, x=x, clean=clean, carried=carried, stochastic=nowhere)
        assert torch.equal(law.mean, own.mean)
        expected = torch.full((5,), 0.12)
        expected[3] = 0.12 * (k == 4)
        if k == 4 and rule == "additive":
            expected = torch.tensor([0.005, 0.005, 0.02, 1.0, 0.0])
        expected[4] = 0.0
        torch.testing.assert_close(law.std[0, 0], expected)


def test_rows_of_a_batch_at_different_steps_equal_rows_alone():
    tables = build_tables(a_spec(steps=5), flow_sde())
    x, clean, carried = (randn(5, 6, 5, seed=i).float() for i in range(3))
    together = transition(tables, step=torch.arange(5), x=x, clean=clean, carried=carried)
    for k in range(5):
        alone = law_at(
            tables, k, x=x[k : k + 1], clean=clean[k : k + 1], carried=carried[k : k + 1]
        )
        assert torch.equal(alone.mean[0], together.mean[k])
        assert torch.equal(alone.std[0], together.std[k])


def test_refreshed_noise_puts_the_drawn_state_back_on_the_native_path():
    spec, k = a_spec(steps=5), 1
    tables = build_tables(spec, flow_sde())
    x, clean, carried = (randn(3, 6, 5, seed=i).float() for i in range(3))
    law = law_at(tables, k, x=x, clean=clean, carried=carried)
    x_next = law.mean + law.std * randn(3, 6, 5, seed=7).float()
    fresh = refresh_carried(
        tables, step=k, x_next=x_next, clean=clean, carried=carried, std=law.std
    )
    path = tables.clean_weight[k] * clean + tables.time[k + 1] * fresh
    torch.testing.assert_close(path, x_next, rtol=0, atol=1e-6)
    assert torch.equal(fresh[law.std == 0], carried[law.std == 0])
    assert not torch.equal(fresh[law.std > 0], carried[law.std > 0])


def test_tables_of_a_recipe_without_the_section_of_its_variant_are_refused():
    pirl = flow_sde()
    pirl.flow_sde = None
    with pytest.raises(ConfigError) as caught:
        build_tables(a_spec(), pirl)
    assert caught.value.errors[0].field == "pirl.flow_sde"


@pytest.mark.parametrize(
    ("section", "settings"), [("flow_sde", flow_sde_settings), ("flow_noise", flow_noise_settings)]
)
def test_a_section_that_is_read_must_be_there(section, settings):
    pirl = flow_sde() if section == "flow_sde" else flow_noise()
    assert settings(pirl) is getattr(pirl, section)
    setattr(pirl, section, None)
    with pytest.raises(ConfigError) as caught:
        settings(pirl)
    assert caught.value.errors[0].field == f"pirl.{section}"


def test_bernoulli_gripper_without_gripper_logits_is_refused():
    with pytest.raises(ContractError) as caught:
        build_tables(a_plain_spec(steps=3), flow_sde(gripper_mode="bernoulli"))
    assert caught.value.clauses[0].field == "pirl.gripper_mode"
