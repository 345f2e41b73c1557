"""The law of the stochastic step, and the order of random numbers."""

import pytest
import torch
from flow_toys import a_spec, generators

from pirl.algorithm.draws import draw_decision, draw_initial, stochastic_step
from pirl.config.recipe import FlowSDEConfig
from pirl.errors import ConfigError

GRID = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000


def shares(num_steps=4, **knobs):
    step = stochastic_step(GRID, num_steps=num_steps, settings=FlowSDEConfig(**knobs))
    return (torch.bincount(step, minlength=num_steps) / len(GRID)).tolist()


def test_uniform_law_gives_every_step_the_same_share():
    assert shares() == pytest.approx([0.25] * 4)


def test_exclude_last_never_draws_the_last_step():
    assert shares(step_sampling="exclude_last") == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0], abs=1e-3)


def test_weights_are_shares_whatever_their_sum():
    got = shares(step_sampling="weights", step_weights=(0.0, 2.0, 0.0, 6.0))
    assert got == pytest.approx([0, 0.25, 0, 0.75])


@pytest.mark.parametrize("quantile", [0.0, 1 - 2**-53])
@pytest.mark.parametrize("num_steps", [1, 3, 20])
def test_extreme_quantiles_stay_inside_the_chain(quantile, num_steps):
    edge = torch.tensor([quantile], dtype=torch.float64)
    step = stochastic_step(edge, num_steps=num_steps, settings=FlowSDEConfig())
    assert step.tolist() == [0 if quantile == 0 else num_steps - 1]


def test_step_of_weight_zero_is_never_drawn_not_even_at_quantile_zero():
    settings = FlowSDEConfig(step_sampling="weights", step_weights=(0.0, 1.0))
    zero = torch.zeros(1, dtype=torch.float64)
    assert stochastic_step(zero, num_steps=2, settings=settings).tolist() == [1]


@pytest.mark.parametrize(
    ("num_steps", "knobs"),
    [
        (1, {"step_sampling": "exclude_last"}),
        (4, {"step_sampling": "last"}),
        (4, {"step_sampling": "weights"}),
        (4, {"step_sampling": "weights", "step_weights": (1.0, 1.0)}),
        (2, {"step_sampling": "weights", "step_weights": (2.0, -1.0)}),
        (2, {"step_sampling": "weights", "step_weights": (0.0, 0.0)}),
    ],
)
def test_law_that_leaves_no_step_is_refused(num_steps, knobs):
    with pytest.raises(ConfigError) as caught:
        shares(num_steps, **knobs)
    assert caught.value.errors[0].field == "pirl.flow_sde.step_sampling"


def test_initial_noise_is_the_first_draw_and_each_row_its_own():
    spec, device = a_spec(), torch.device("cpu")
    alone = draw_initial(spec, generators(3), device=device)
    one = draw_decision(spec, generators(3), stochastic_steps=1, device=device)
    several = draw_decision(spec, generators(3), stochastic_steps=5, device=device)
    assert torch.equal(alone, one.initial)
    assert torch.equal(alone, several.initial)
    assert not torch.equal(alone[0], alone[1])
    assert several.noise.shape == (3, 5, 6, 5)
    assert alone.dtype == torch.float32


def test_draws_are_standard_normal_and_uniform():
    spec = a_spec(
        chunk=200,
        executed=200,
        groups=("other",) * 49 + ("gripper_logit",),
        executed_dims=range(50),
    )
    drawn = draw_decision(spec, generators(4), stochastic_steps=2, device=torch.device("cpu"))
    for normal in (drawn.initial, drawn.noise):
        assert abs(float(normal.mean())) < 0.02
        assert float(normal.std()) == pytest.approx(1, abs=0.02)
    assert float(drawn.gripper_quantile.mean()) == pytest.approx(0.5, abs=0.05)
    assert ((drawn.gripper_quantile >= 0) & (drawn.gripper_quantile < 1)).all()
