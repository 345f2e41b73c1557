"""Sums over samples: what an update reports is counted, whatever the micro-batches were."""

from __future__ import annotations

import math
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch

from pirl.algorithm.diagnostics import Parity, RatioStats, UpdateStats
from pirl.algorithm.loss import BehaviourWeight, behaviour_weight, ppo_surrogate
from pirl.algorithm.report import metric_row, training_stats
from pirl.journal.metrics import RATIO_EDGES

LOG_RATIO = torch.tensor([-1.0, -0.3, 0.0, 0.0, 0.1, 0.3, 1.0, 9.0])
ADVANTAGE = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, 1.0, -1.0, 1.0])
BEHAVIOUR = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.5, -0.5, 1.0, 5.0])
MASK = torch.tensor([True] * 7 + [False])


def the_surrogate(rows):
    return ppo_surrogate(
        LOG_RATIO[rows],
        proximal=torch.zeros(len(LOG_RATIO))[rows],
        advantage=ADVANTAGE[rows],
        clip_low=0.2,
        clip_high=0.2,
        clip_dual=2.0,
        log_ratio_clamp=5.0,
    )


def stats_of(*parts):
    stats = RatioStats()
    for part in parts:
        rows = torch.tensor(part)
        weight = behaviour_weight(
            BEHAVIOUR[rows],
            behaviour=torch.zeros(len(rows)),
            threshold=2.0,
            log_ratio_clamp=20.0,
        )
        stats.add(the_surrogate(rows), weight, mask=MASK[rows])
    return stats


def test_ratio_statistics_are_those_of_the_samples_in_the_mask():
    stats = stats_of(range(8))
    ratio = LOG_RATIO[:7].double().exp()
    weight = BEHAVIOUR[:7].double().exp()
    assert stats.samples == 7
    assert stats.clipped == 2
    assert stats.dual_clipped == 1
    assert stats.max_abs == pytest.approx(math.e - 1, rel=1e-6)
    assert stats.approx_kl == pytest.approx(float((ratio - 1 - ratio.log()).mean()), rel=1e-5)
    assert stats.clip_fraction == pytest.approx(2 / 7)
    row = stats.metrics()
    assert row["ratio_mean"] == pytest.approx(float(ratio.mean()), rel=1e-6)
    assert row["ratio_min"] == pytest.approx(math.exp(-1), rel=1e-6)
    assert row["ratio_max"] == pytest.approx(math.e, rel=1e-6)
    assert row["ratio_clip_fraction"] == pytest.approx(2 / 7)
    assert row["ratio_dual_clip_fraction"] == pytest.approx(1 / 7)
    assert row["behave_weight_mean"] == pytest.approx(float(weight.mean()), rel=1e-6)
    assert row["behave_weight_max"] == pytest.approx(math.e, rel=1e-6)
    assert row["behave_masked_fraction"] == pytest.approx(1 / 7)
    # exp(-1), exp(-0.3), 1 twice, exp(0.1), exp(0.3), exp(1): a ratio of one opens its bin.
    assert [row[f"ratio_bin_{i}"] for i in range(8)] == [1, 1, 0, 0, 2, 1, 1, 1]


def test_bins_are_those_of_the_stated_edges():
    assert RATIO_EDGES == (0.5, 0.8, 0.95, 1.0, 1.05, 1.2, 2.0)


@pytest.mark.parametrize("split", [[[0, 1, 2], [3, 4, 5, 6, 7]], [[7], [0, 6], [1, 2, 3, 4, 5]]])
def test_micro_batches_and_merged_parts_give_the_same_statistics(split):
    whole, added = stats_of(range(8)), stats_of(*split)
    merged = RatioStats()
    for part in reversed(split):
        merged.merge(stats_of(part))
    for other in (added, merged):
        assert other.bins == whole.bins
        assert other.metrics().keys() == whole.metrics().keys()
        assert other.metrics() == pytest.approx(whole.metrics(), rel=1e-12)
        assert other.approx_kl == pytest.approx(whole.approx_kl, rel=1e-12)
        assert other.max_abs == whole.max_abs


def test_without_a_sample_nothing_is_reported():
    stats = stats_of([7])
    assert stats.metrics() == {}
    assert (stats.samples, stats.approx_kl, stats.clip_fraction) == (0, 0.0, 0.0)
    assert stats == RatioStats()


def test_one_sample_is_a_statistic():
    stats = stats_of([5])
    assert stats.approx_kl == pytest.approx(math.exp(0.3) - 1.3, rel=1e-5)
    assert stats.clip_fraction == 1.0
    assert stats.metrics()["ratio_mean"] == pytest.approx(math.exp(0.3), rel=1e-6)


def test_parity_of_two_sets_is_weighted_by_their_decisions():
    nothing = Parity(max_abs=0.0, mean_abs=0.0, decisions=0)
    one = Parity(max_abs=0.5, mean_abs=0.2, decisions=1)
    three = Parity(max_abs=0.3, mean_abs=0.1, decisions=3)
    for both in (one.merge(three), three.merge(one)):
        assert (both.max_abs, both.decisions) == (0.5, 4)
        assert both.mean_abs == pytest.approx((0.2 + 3 * 0.1) / 4)
        assert both.metrics() == {"parity_max_abs": 0.5, "parity_mean_abs": both.mean_abs}
    assert nothing.merge(one) == one
    assert nothing.merge(nothing) == nothing
    assert nothing.metrics() == {}


def test_losses_are_summed_and_actor_terms_only_where_the_actor_trains():
    stats = UpdateStats()
    terms = {"policy_loss": torch.tensor(2.0, requires_grad=True), "value_loss": torch.tensor(3.0)}
    stats.add_losses(terms, train_actor=True)
    stats.add_losses(terms, train_actor=False)
    assert stats.losses == {"policy_loss": 2.0, "value_loss": 6.0}


@pytest.mark.parametrize(
    ("samples", "minibatches", "measured"), [(7, 2, True), (7, 1, False), (0, 2, False)]
)
def test_a_policy_is_only_measured_after_a_step(samples, minibatches, measured):
    stats = UpdateStats(minibatches=minibatches)
    if samples:
        stats.last_epoch = stats_of(range(8))
    assert (stats.approx_kl is not None) is measured
    if measured:
        assert stats.approx_kl == stats.last_epoch.approx_kl


def test_what_several_processes_counted_is_put_together():
    split = [[0, 1, 2], [3, 4], [5, 6, 7]]
    whole, together = stats_of(range(8)), RatioStats.together([asdict(stats_of(p)) for p in split])
    assert together.bins == whole.bins
    assert together.metrics() == pytest.approx(whole.metrics(), rel=1e-12)
    parity = [
        Parity(max_abs=0.1, mean_abs=0.1, decisions=1),
        Parity(max_abs=0.5, mean_abs=0.2, decisions=2),
        Parity(max_abs=0.3, mean_abs=0.3, decisions=5),
    ]
    found = Parity.together([asdict(part) for part in parity])
    assert (found.max_abs, found.decisions) == (0.5, 8)
    assert found.mean_abs == pytest.approx((0.1 + 2 * 0.2 + 5 * 0.3) / 8)
    assert RatioStats.together([asdict(whole)]) == whole
    assert Parity.together([asdict(parity[1])]) == parity[1]


@pytest.mark.parametrize(
    ("epochs", "loss"), [((None, None, None), None), ((1.0, 2.0, 4.0), 7.0), ((0.0, 0.0, 0.0), 0.0)]
)
def test_each_process_adds_its_share_of_losses_and_of_noise(epochs, loss):
    losses = ({"policy_loss": 1.0}, {"policy_loss": 2.0, "bc_loss": 0.5}, {"bc_loss": 0.25})
    stds = ([0.1], [], [0.2, 0.3])
    parts = [
        UpdateStats(losses=dict(terms), noise_std=list(std), value_epoch_loss=epoch)
        for terms, std, epoch in zip(losses, stds, epochs, strict=True)
    ]
    told = [part.shared() for part in parts]
    for part in parts:
        part.put_together(told)
        assert part.losses == {"policy_loss": 3.0, "bc_loss": 0.75}
        assert part.noise_std == [0.1, 0.2, 0.3]
        assert part.value_epoch_loss == loss


# Report


def a_report(stats, *, rates=None, metrics=None):
    prepared = SimpleNamespace(metrics=metrics or {}, lag=torch.tensor([0, 0, 3]))
    batch = SimpleNamespace(reward=torch.tensor([1.0, 0.0, 2.0]))
    return training_stats(stats, prepared, batch, rates=rates or {}, imitation=None)


def test_a_report_has_means_over_passes_and_steps():
    stats = UpdateStats(minibatches=4, optimiser_steps=2, epochs=3)
    stats.losses, stats.grad_norms = {"policy_loss": 8.0}, {"actor": 3.0}
    stats.ratio = stats.last_epoch = stats_of(range(8))
    stats.first = stats_of([0, 6])
    stats.add_noise_std(0.1)
    stats.add_noise_std(0.3)
    stats.value_epoch_loss = 0.0
    row = metric_row(a_report(stats, rates={"actor": 1e-3, "actor_no_decay": 1e-3, "critic": 2e-3}))
    assert row["update/policy_loss"] == 2.0
    assert row["update/grad_norm_actor"] == 1.5
    assert (row["update/epochs"], row["update/optimiser_steps"]) == (3.0, 2.0)
    assert row["update/reward_mean"] == 1.0
    assert row["update/noise_std_mean"] == pytest.approx(0.2)
    assert row["update/value_epoch_loss"] == 0.0
    assert row["update/lr_actor"] == 1e-3
    assert row["update/lr_critic"] == 2e-3
    assert "update/lr_actor_no_decay" not in row
    assert (row["version/lag_max"], row["version/lag_mean"]) == (3.0, 1.0)
    assert row["update/approx_kl"] == stats.ratio.approx_kl
    assert row["update/ratio_first_max_abs"] == pytest.approx(math.e - 1, rel=1e-6)
    assert row["update/clip_first_fraction"] == stats.first.clip_fraction
    assert row["update/kl_first"] == stats.first.approx_kl
    assert row["update/ratio_bin_0"] == 1.0


def test_a_report_of_an_update_without_any_pass_is_finite_and_short():
    stats = UpdateStats()
    stats.losses = {"value_loss": 2.0}
    row = metric_row(a_report(stats, metrics={"parts/more": 1.0, "more": 2.0}))
    assert row["update/value_loss"] == 2.0
    assert row["update/approx_kl"] == 0.0
    assert (row["parts/more"], row["update/more"]) == (1.0, 2.0)
    assert not {"update/noise_std_mean", "update/value_epoch_loss", "update/ratio_mean"} & set(row)


def test_weights_are_admitted_up_to_the_threshold():
    given = torch.tensor([0.0, 0.001, -9.0])
    weight = behaviour_weight(given, behaviour=torch.zeros(3), threshold=1.0, log_ratio_clamp=5.0)
    assert weight.admitted.tolist() == [True, False, True]
    assert weight.weight.tolist() == pytest.approx([1.0, math.exp(0.001), math.exp(-5.0)])


def test_samples_that_are_not_admitted_are_counted():
    weight = BehaviourWeight(weight=torch.tensor([1.0]), admitted=torch.tensor([False]))
    stats = RatioStats()
    stats.add(the_surrogate(torch.tensor([2])), weight, mask=torch.tensor([True]))
    assert stats.metrics()["behave_masked_fraction"] == 1.0
