"""Parameter groups and learning-rate schedules."""

from __future__ import annotations

import pytest
from toys import ToyPolicy, a_batch, a_recipe, an_algorithm

from pirl.algorithm.optim import ADAPT_FACTOR, RateSchedule, learning_rates
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
