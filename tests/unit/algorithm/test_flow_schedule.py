"""Closed forms of flow times and step noise, against general formulas and published tables."""

import math

import pytest
import torch

from pirl.algorithm.schedule import flow_time, step_noise
from pirl.errors import ConfigError

STD_AT_HALF = {
    4: [0.5, 0.433, 0.25, 0.1443],
    5: [0.5, 0.4472, 0.2739, 0.1826, 0.1118],
    10: [0.5, 0.4743, 0.3162, 0.2415, 0.1936, 0.1581, 0.1291, 0.1035, 0.0791, 0.0527],
}


def noise(k: int, num_steps: int, **knobs):
    knobs = {"method": "flow_sde", "noise_level": 0.5} | knobs
    return step_noise(k, num_steps, **knobs)


@pytest.mark.parametrize("level", [0.1, 0.5, 1.0])
def test_closed_forms_equal_the_general_formula_with_the_clamp(level):
    for num_steps in range(1, 21):
        delta = 1 / num_steps
        for k in range(num_steps):
            t, t_next = 1 - k * delta, 1 - (k + 1) * delta
            denominator = 1 - t if k else 1 - (1 - delta)
            std = level * math.sqrt(t / denominator) * math.sqrt(delta)
            got = noise(k, num_steps, noise_level=level)
            assert got.std == pytest.approx(std, abs=1e-9)
            assert got.weight == pytest.approx(t_next - std**2 / (2 * t), abs=1e-9)
            assert math.isfinite(got.std)
            assert got.std > 0


@pytest.mark.parametrize("num_steps", STD_AT_HALF)
def test_std_reproduces_the_published_table(num_steps):
    got = [noise(k, num_steps).std for k in range(num_steps)]
    assert got == pytest.approx(STD_AT_HALF[num_steps], abs=5e-5)


def test_first_std_is_the_noise_level_for_every_number_of_steps():
    assert {noise(0, num_steps, noise_level=0.3).std for num_steps in range(1, 21)} == {0.3}


def test_weight_turns_negative_at_the_last_step_only():
    for num_steps in range(2, 21):
        weights = [noise(k, num_steps).weight for k in range(num_steps)]
        assert weights[-1] == pytest.approx(-0.125 / (num_steps - 1), abs=1e-12)
        assert all(w > 0 for w in weights[:-1])


def test_flow_times_fall_from_one_to_zero_and_round_as_the_stock_sampler_rounds():
    for num_steps in range(1, 21):
        times = torch.tensor([flow_time(k, num_steps) for k in range(num_steps + 1)])
        stock = torch.tensor([i / num_steps for i in range(num_steps, -1, -1)])
        assert torch.equal(times, stock)
        assert (times[0], times[-1]) == (1, 0)


def test_ode_steps_have_no_noise_and_keep_all_of_the_carried_noise():
    for k in range(5):
        got = noise(k, 5, method="ode")
        assert (got.std, got.weight) == (0.0, flow_time(k + 1, 5))


def test_flow_cps_keeps_the_noise_power_of_its_flow_time():
    for k in range(5):
        got = noise(k, 5, method="flow_cps", noise_level=0.4)
        assert got.std**2 + got.weight**2 == pytest.approx(flow_time(k + 1, 5) ** 2, abs=1e-12)
        assert got.std == pytest.approx(flow_time(k + 1, 5) * math.sin(0.2 * math.pi), abs=1e-12)


def test_vp_rule_keeps_carried_noise_at_unit_variance_where_it_can():
    for k in range(10):
        got = noise(k, 10, w_rule="vp")
        power = max(flow_time(k + 1, 10) ** 2, got.std**2)
        assert got.std**2 + got.weight**2 == pytest.approx(power, abs=1e-12)


@pytest.mark.parametrize(
    ("knobs", "field"),
    [
        ({"method": "sde"}, "pirl.flow_sde.noise_method"),
        ({"w_rule": "none"}, "pirl.flow_sde.w_rule"),
    ],
)
def test_unknown_method_or_rule_is_refused_by_name(knobs, field):
    with pytest.raises(ConfigError) as caught:
        noise(1, 5, **knobs)
    assert caught.value.errors[0].field == field
