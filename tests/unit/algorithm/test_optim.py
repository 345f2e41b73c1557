"""Parameter groups and learning-rate schedules."""

from __future__ import annotations

import pytest
import torch
from toys import ToyPolicy, a_batch, a_recipe, an_algorithm

from pirl.algorithm.optim import (
    ACTOR_GROUPS,
    ADAPT_FACTOR,
    RateSchedule,
    clip_gradients,
    drop_gradients,
    group_parameters,
    learning_rates,
    make_optimizer,
    swap_values,
)
from pirl.config.recipe import FlowNoiseConfig


def groups_of(algorithm) -> dict[str, dict]:
    return {g["name"]: g for g in algorithm.get_optimizers()["pi_rl"].param_groups}


def test_every_trained_parameter_is_in_exactly_one_group_and_tables_do_not_decay():
    algorithm = an_algorithm(
        ToyPolicy(),
        a_recipe("flow-noise", flow_noise=FlowNoiseConfig(noise_lr=7e-4), weight_decay=0.02),
    )
    groups = groups_of(algorithm)
    assert set(groups) == {"actor", "actor_no_decay", "noise_head", "critic"}
    grouped = [id(p) for g in groups.values() for p in g["params"]]
    assert sorted(grouped) == sorted(id(p) for p in algorithm._nets.parameters().values())
    tables = {id(p) for p in groups["actor_no_decay"]["params"]}
    named = algorithm.policy.trained_parameters()
    assert {n for n, p in named.items() if id(p) in tables} == {
        "transformer.action_decoder.weight",
        "transformer.action_decoder.bias",
    }
    assert groups["actor_no_decay"]["weight_decay"] == 0.0
    assert groups["actor"]["weight_decay"] == 0.02
    assert groups["noise_head"]["lr"] == 7e-4


def test_the_critic_keeps_its_rate_while_cosine_takes_the_actor_to_a_tenth():
    algorithm = an_algorithm(ToyPolicy(), a_recipe(lr_schedule="cosine"))
    optimizer = algorithm.get_optimizers()["pi_rl"]
    schedule = RateSchedule(pirl=algorithm.config.pirl, total_updates=10)
    seen = []
    for update in (0, 5, 10):
        schedule.apply(optimizer, update=update)
        seen.append(learning_rates(optimizer))
    assert [r["actor"] for r in seen] == pytest.approx([1e-3, 5.5e-4, 1e-4])
    assert {r["critic"] for r in seen} == {1e-3}


def adaptive(**knobs: object) -> RateSchedule:
    pirl = a_recipe(lr_schedule="kl_adaptive", target_kl=0.03, actor_lr_max=2e-3, **knobs)
    return RateSchedule(pirl=pirl, total_updates=10)


@pytest.mark.parametrize(
    ("kl", "scale"),
    [(0.1, 1 / ADAPT_FACTOR), (0.03, 1.0), (0.001, ADAPT_FACTOR), (None, 1.0)],
    ids=["too far", "on target", "too timid", "actor did not train"],
)
def test_the_adaptive_rate_moves_against_the_measured_kl(kl, scale):
    schedule = adaptive()
    schedule.adapt(kl)
    assert schedule.scale == pytest.approx(scale)


def test_the_adaptive_rate_stays_between_its_floor_and_cap():
    up, down = adaptive(), adaptive()
    for _ in range(50):
        up.adapt(1e-6)
        down.adapt(10.0)
    assert up.scale == pytest.approx(2.0)
    assert 0.0 < down.scale <= 0.01


def test_the_adaptive_rate_acts_on_the_next_update():
    algorithm = an_algorithm(
        ToyPolicy(),
        a_recipe(lr_schedule="kl_adaptive", target_kl=1e-9, actor_lr_max=1e-3),
    )
    first = algorithm.update(iter([a_batch(algorithm)])).extra["lr_actor"]
    second = algorithm.update(iter([a_batch(algorithm, version=1)])).extra["lr_actor"]
    assert first == pytest.approx(1e-3)
    assert second == pytest.approx(1e-3 / ADAPT_FACTOR)


def test_the_adaptive_rate_ignores_an_update_that_measured_nothing_after_a_step():
    algorithm = an_algorithm(
        ToyPolicy(),
        a_recipe(lr_schedule="kl_adaptive", target_kl=1e-3, update_epochs=1, actor_lr_max=1e-2),
    )
    rates = [
        algorithm.update(iter([a_batch(algorithm, version=v)])).extra["lr_actor"] for v in range(2)
    ]
    assert rates[0] == rates[1]


def a_schedule(optimizer, *, total_updates=10, update=0, **knobs):
    """Rates of the actor after one call."""
    schedule = RateSchedule(pirl=a_recipe(**knobs), total_updates=total_updates)
    schedule.apply(optimizer, update=update)
    return learning_rates(optimizer)


def test_rates_are_those_of_the_update_and_not_of_the_last_rate():
    optimizer = an_algorithm(ToyPolicy(), a_recipe()).get_optimizers()["pi_rl"]
    assert a_schedule(optimizer)["actor"] == 1e-3
    ends = [a_schedule(optimizer, lr_schedule="cosine", update=n)["actor"] for n in (0, 10, 99)]
    assert ends == pytest.approx([1e-3, 1e-4, 1e-4])
    # A run of no update, or of one, does not divide by zero.
    short = [
        a_schedule(optimizer, lr_schedule="cosine", total_updates=n, update=1)["actor"]
        for n in (0, 1)
    ]
    assert short == pytest.approx([1e-4, 1e-4])
    rates = a_schedule(optimizer, lr_schedule="cosine", update=5)
    assert rates["actor"] == rates["actor_no_decay"] == pytest.approx(5.5e-4)
    assert a_schedule(optimizer)["actor"] == 1e-3


@pytest.mark.parametrize(
    ("kl", "scale"),
    [(0.045, 1.0), (0.0451, 1 / 1.5), (0.02, 1.0), (0.0199, 1.5)],
    ids=["upper edge", "above", "lower edge", "below"],
)
def test_the_adaptive_rate_reacts_outside_its_band_only(kl, scale):
    schedule = adaptive()
    schedule.adapt(kl)
    assert schedule.scale == pytest.approx(scale)


def test_the_adaptive_rate_has_a_floor_and_the_cap_that_was_asked_for():
    schedule = RateSchedule(
        pirl=a_recipe(lr_schedule="kl_adaptive", target_kl=0.03), total_updates=10
    )
    schedule.scale = 0.012
    schedule.adapt(1.0)
    assert schedule.scale == 0.01
    schedule.scale = 100.0
    schedule.adapt(1e-9)
    assert schedule.scale == pytest.approx(150.0)


@pytest.mark.parametrize("knobs", [{}, {"lr_schedule": "cosine"}, {"target_kl": 0.03}])
def test_other_schedules_do_not_adapt(knobs):
    schedule = RateSchedule(pirl=a_recipe(**knobs), total_updates=10)
    schedule.adapt(10.0)
    assert schedule.scale == 1.0


def test_the_noise_head_has_the_actors_rate_unless_it_has_its_own():
    def rate(**noise):
        recipe = a_recipe("flow-noise", flow_noise=FlowNoiseConfig(**noise), actor_lr=3e-4)
        return groups_of(an_algorithm(ToyPolicy(), recipe))["noise_head"]["lr"]

    assert rate() == 3e-4
    assert rate(noise_lr=7e-4) == 7e-4


def a_layer(gradient):
    layer = torch.nn.Linear(2, 1)
    for parameter in layer.parameters():
        parameter.grad = None if gradient is None else torch.full_like(parameter, gradient)
    return layer


def an_optimizer(*, actor, tables, noise_head, critic):
    """Three parameters per group, each with the gradient given."""
    layers = {"body": a_layer(actor), "action_decoder": a_layer(tables)}
    trained = {f"{n}.{m}": p for n, layer in layers.items() for m, p in layer.named_parameters()}
    heads = {"noise_head": a_layer(noise_head), "critic": a_layer(critic)}
    tables_of = [name for name in trained if name.startswith("action_decoder")]
    return make_optimizer(trained, **heads, pirl=a_recipe(), no_decay=tables_of)


def gradients(optimizer):
    """One gradient per group."""
    return {g["name"]: float(g["params"][0].grad.flatten()[0]) for g in optimizer.param_groups}


def test_actor_groups_are_clipped_by_their_joint_norm_and_the_critic_by_its_own():
    optimizer = an_optimizer(actor=1.0, tables=2.0, noise_head=2.0, critic=4.0)
    norms = clip_gradients(optimizer, limit=3.0)
    joint, alone = 27**0.5, 48**0.5
    assert norms == pytest.approx({"noise_head": 12**0.5, "actor": joint, "critic": alone})
    scale = 3.0 / (joint + 1e-6)
    assert gradients(optimizer) == pytest.approx(
        {
            "actor": scale,
            "actor_no_decay": 2 * scale,
            "noise_head": 2 * scale,
            "critic": 4 * 3.0 / (alone + 1e-6),
        },
        rel=1e-5,
    )


def test_small_gradients_are_left_alone_and_absent_ones_have_no_norm():
    optimizer = an_optimizer(actor=1.0, tables=None, noise_head=None, critic=1.0)
    norms = clip_gradients(optimizer, limit=3.0)
    assert norms == pytest.approx({"actor": 3**0.5, "critic": 3**0.5})
    assert gradients_of(optimizer, "actor") == [1.0, 1.0, 1.0]
    optimizer = an_optimizer(actor=None, tables=None, noise_head=None, critic=1.0)
    assert clip_gradients(optimizer, limit=3.0).keys() == {"critic"}


def gradients_of(optimizer, name):
    return [v for p in group_parameters(optimizer, [name]) for v in p.grad.flatten().tolist()]


def test_dropped_gradients_leave_the_parameters_where_they_are():
    optimizer = an_optimizer(actor=1.0, tables=1.0, noise_head=1.0, critic=1.0)
    before = [p.detach().clone() for g in optimizer.param_groups for p in g["params"]]
    drop_gradients(group_parameters(optimizer, ACTOR_GROUPS))
    optimizer.step()
    after = [p.detach() for g in optimizer.param_groups for p in g["params"]]
    same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert same == [True] * 6 + [False] * 2


def test_values_are_swapped_in_and_out_again():
    layer = torch.nn.Linear(2, 1)
    own = dict(layer.named_parameters())
    before = {name: p.detach().clone() for name, p in own.items()}
    others = {name: torch.full_like(p, 7.0) for name, p in own.items()}
    held = swap_values(own, others)
    assert all((p == 7.0).all() for p in own.values())
    assert all(p.requires_grad and p.grad_fn is None for p in own.values())
    assert all(torch.equal(held[name], before[name]) for name in own)
    assert not any(value.requires_grad for value in held.values())
    swap_values(own, held)
    assert all(torch.equal(p, before[name]) for name, p in own.items())
