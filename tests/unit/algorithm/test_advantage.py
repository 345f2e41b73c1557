"""Outer MDP: GAE against a hand-computed table, GRPO against the worked example, weights."""

from __future__ import annotations

import pytest
import torch

from pirl.algorithm.advantage import (
    episode_layout,
    gae,
    grpo_advantages,
    normalize,
    shuffle,
    trajectory_weights,
)
from pirl.algorithm.seeding import Stream, seeded_generator
from pirl.errors import NumericsError

HAND_EPISODE = torch.tensor([7, 7, 7, 9, 9, 9])
HAND_CHUNK = torch.tensor([0, 1, 2, 0, 1, 2])
HAND_REWARD = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
HAND_VALUE = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], dtype=torch.float64)
HAND_NEXT = torch.tensor([0.2, 0.3, 123.0, 0.5, 0.6, 0.7], dtype=torch.float64)
HAND_TERMINATED = torch.tensor([False, False, True, False, False, False])
HAND_TRUNCATED = torch.tensor([False, False, False, False, False, True])
HAND_ADVANTAGE = [0.808407, 0.755350, 0.700000, 0.265669, 0.181466, 0.093000]


def hand_gae(order: torch.Tensor | None = None, **changes: object) -> torch.Tensor:
    """GAE of the hand case of `algorithm.md` I31, rows in `order`, undone again."""
    rows = torch.arange(6) if order is None else order
    inputs: dict[str, object] = {
        "reward": HAND_REWARD[rows],
        "value": HAND_VALUE[rows],
        "next_value": HAND_NEXT[rows],
        "terminated": HAND_TERMINATED[rows],
        "truncated": HAND_TRUNCATED[rows],
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "bootstrap_on_truncation": True,
        **changes,
    }
    result = gae(episode_layout(HAND_EPISODE[rows], HAND_CHUNK[rows]), **inputs)  # type: ignore[arg-type]
    restored = torch.empty_like(result)
    restored[rows] = result
    return restored


def test_gae_equals_the_hand_computed_table_with_termination_and_truncation_apart():
    # Half of the table's last digit; its first entry is 0.8084065.
    expected = torch.tensor(HAND_ADVANTAGE, dtype=torch.float64)
    torch.testing.assert_close(hand_gae(), expected, atol=5.01e-7, rtol=0)


def test_without_bootstrap_a_time_limit_counts_as_terminal():
    as_limit = hand_gae(bootstrap_on_truncation=False)
    as_terminal = hand_gae(
        terminated=HAND_TERMINATED | HAND_TRUNCATED, truncated=torch.zeros(6, dtype=torch.bool)
    )
    torch.testing.assert_close(as_limit, as_terminal, atol=0, rtol=0)
    assert as_limit[5] == pytest.approx(-0.6)


def test_an_open_fragment_bootstraps_like_a_truncated_episode():
    nothing = torch.zeros(6, dtype=torch.bool)
    for bootstrap in (True, False):
        opened = hand_gae(truncated=nothing, bootstrap_on_truncation=bootstrap)
        torch.testing.assert_close(opened, hand_gae(), atol=0, rtol=0)


def test_lambda_one_is_the_discounted_return_minus_value_and_lambda_zero_is_delta():
    whole = hand_gae(gae_lambda=1.0)
    assert whole[0] == pytest.approx(0.99**2 * 1.0 - 0.1, abs=1e-12)
    assert whole[3] == pytest.approx(0.99**3 * 0.7 - 0.4, abs=1e-12)
    one_step = hand_gae(gae_lambda=0.0)
    next_value = torch.where(HAND_TERMINATED, torch.zeros(6, dtype=torch.float64), HAND_NEXT)
    delta = HAND_REWARD + 0.99 * next_value - HAND_VALUE
    torch.testing.assert_close(one_step, delta, atol=1e-12, rtol=0)


def test_arrival_order_changes_nothing():
    rng = torch.Generator().manual_seed(0)
    for _ in range(5):
        torch.testing.assert_close(
            hand_gae(torch.randperm(6, generator=rng)), hand_gae(), atol=0, rtol=0
        )


def test_advantages_never_cross_an_episode_boundary():
    changed = HAND_REWARD.clone()
    changed[3:] += 100.0
    torch.testing.assert_close(hand_gae(reward=changed)[:3], hand_gae()[:3], atol=0, rtol=0)
    changed = HAND_REWARD.clone()
    changed[:3] += 100.0
    torch.testing.assert_close(hand_gae(reward=changed)[3:], hand_gae()[3:], atol=0, rtol=0)


def test_a_missing_or_repeated_decision_is_refused_by_name():
    with pytest.raises(NumericsError, match="episode 4: chunk 3 follows chunk 1"):
        episode_layout(torch.tensor([4, 4, 4]), torch.tensor([0, 1, 3]))
    with pytest.raises(NumericsError, match="episode 4: chunk 1 follows chunk 1"):
        episode_layout(torch.tensor([4, 4, 4]), torch.tensor([0, 1, 1]))


def test_a_fragment_may_start_in_the_middle_of_an_episode():
    layout = episode_layout(torch.tensor([4, 4]), torch.tensor([6, 5]))
    assert layout.order.tolist() == [1, 0]
    assert layout.next_row.tolist() == [-1, 0]


def group(
    scores: list[float],
    *,
    group_id: int = 3,
    size: int = 4,
    finished: bool = True,
    std_floor: float = 0.0,
):
    """GRPO over episodes of two decisions each, the score on the second."""
    count = len(scores)
    episode = torch.arange(count).repeat_interleave(2)
    reward = torch.zeros(2 * count)
    reward[1::2] = torch.tensor(scores)
    done = torch.zeros(2 * count, dtype=torch.bool)
    done[1::2] = finished
    return grpo_advantages(
        episode_layout(episode, torch.arange(2).repeat(count)),
        reward=reward,
        group_id=torch.full((2 * count,), group_id),
        finished=done,
        group_size=size,
        reward_filter=(0.1, 0.9),
        std_floor=std_floor,
    )


def test_grpo_advantages_of_the_worked_example_are_shared_by_an_episodes_decisions():
    result = group([1.0, 0.0, 1.0, 1.0])
    torch.testing.assert_close(
        result.advantage,
        torch.tensor([0.5, -1.5, 0.5, 0.5]).repeat_interleave(2),
        atol=1e-5,
        rtol=0,
    )
    assert bool(result.kept.all())


@pytest.mark.parametrize(
    ("scores", "options"),
    [
        ([1.0, 1.0, 1.0, 1.0], {}),
        ([0.0, 0.0, 0.0, 0.0], {}),
        ([1.0, 0.0, 1.0], {}),
        ([1.0, 0.0, 1.0, 1.0], {"group_id": -1}),
        ([1.0, 0.0, 1.0, 1.0], {"finished": False}),
    ],
    ids=["all succeed", "all fail", "incomplete group", "no group", "unfinished episode"],
)
def test_grpo_drops_groups_that_carry_no_signal_or_are_incomplete(scores, options):
    result = group(scores, **options)
    assert not bool(result.kept.any())
    assert result.num_kept_groups == 0
    assert result.advantage.abs().max() == 0.0


def test_equal_scores_inside_the_filter_give_zero_advantage():
    result = group([0.5, 0.5, 0.5, 0.5])
    assert bool(result.kept.all())
    assert result.advantage.abs().max() == 0.0


def test_a_group_whose_scores_hardly_differ_is_dropped_by_the_floor():
    scores = [0.5, 0.501, 0.5, 0.5]
    without = group(scores)
    assert bool(without.kept.all())
    assert float(without.advantage.max()) == pytest.approx(1.5, abs=5e-3)
    dropped = group(scores, std_floor=0.005)
    assert dropped.num_kept_groups == 0
    assert dropped.advantage.abs().max() == 0.0


def test_the_floor_never_meets_rewards_of_zero_and_one_inside_the_default_filter():
    for successes in range(1, 8):
        scores = [1.0] * successes + [0.0] * (8 - successes)
        plain, floored = (group(scores, size=8, std_floor=floor) for floor in (0.0, 0.35))
        assert torch.equal(plain.kept, floored.kept)
        assert torch.equal(plain.advantage, floored.advantage)


def test_a_std_above_the_floor_keeps_every_bit_and_one_below_it_is_raised():
    advantage = torch.tensor([0.1, -0.2, 0.4, 0.0])
    valid = torch.ones(4, dtype=torch.bool)
    std = float(advantage.double().std(correction=0))
    plain = normalize(advantage, valid=valid)
    assert torch.equal(normalize(advantage, valid=valid, std_floor=std * 0.999), plain)
    raised = normalize(advantage, valid=valid, std_floor=2.0)
    torch.testing.assert_close(raised, (advantage - advantage.mean()) / (2.0 + 1e-5))


def test_masked_decisions_do_not_enter_the_statistics():
    advantage = torch.tensor([1.0, 2.0, 3.0, 1e6])
    valid = torch.tensor([True, True, True, False])
    result = normalize(advantage, valid=valid)
    torch.testing.assert_close(
        result[:3], normalize(advantage[:3], valid=valid[:3]), atol=0, rtol=0
    )
    assert result[3] == 0.0
    assert result[:3].mean() == pytest.approx(0.0, abs=1e-6)
    assert result[:3].std(correction=0) == pytest.approx(1.0, abs=1e-4)


def test_one_valid_decision_or_none_gives_finite_zeros():
    for valid in (torch.tensor([True, False]), torch.tensor([False, False])):
        assert normalize(torch.tensor([5.0, 7.0]), valid=valid).tolist() == [0.0, 0.0]


def test_shuffling_permutes_valid_advantages_and_depends_on_seed_and_version_only():
    advantage = torch.arange(50.0)
    valid = torch.ones(50, dtype=torch.bool)
    valid[::7] = False

    def mixed(seed: int, version: int) -> torch.Tensor:
        rng = seeded_generator(seed, Stream.SHUFFLE_ADVANTAGES, version)
        return shuffle(advantage, valid=valid, generator=rng)

    result = mixed(0, 3)
    assert torch.equal(result[~valid], advantage[~valid])
    assert sorted(result[valid].tolist()) == sorted(advantage[valid].tolist())
    assert not torch.equal(result, advantage)
    assert torch.equal(result, mixed(0, 3))
    assert not torch.equal(result, mixed(0, 4))
    assert not torch.equal(result, mixed(1, 3))


def test_trajectory_weighting_is_the_mean_of_per_trajectory_means():
    rng = torch.Generator().manual_seed(1)
    lengths = [1, 4, 2, 9]
    episode = torch.arange(4).repeat_interleave(torch.tensor(lengths))
    chunk = torch.cat([torch.arange(n) for n in lengths])
    loss = torch.randn(16, generator=rng, dtype=torch.float64)
    valid = torch.rand(16, generator=rng) > 0.2
    valid[0] = True
    layout = episode_layout(episode, chunk)
    weight = trajectory_weights(layout, valid=valid)
    weighted = (weight.double() * loss)[valid].sum() / valid.sum()
    means = [
        loss[valid & (episode == e)].mean() for e in range(4) if (valid & (episode == e)).any()
    ]
    assert float(weighted) == pytest.approx(float(torch.stack(means).mean()), abs=1e-7)
    assert bool((weight[~valid] == 0).all())


def test_rlinf_weighs_by_executed_env_steps_and_pirl_by_decisions():
    """The example of `algorithm.md` 10.1: the two rules differ where an episode ends inside a chunk."""
    steps, rows = torch.tensor([95, 83, 60], dtype=torch.float64), 10
    decisions = torch.ceil(steps / rows).long()
    episode = torch.arange(3).repeat_interleave(decisions)
    loss = torch.tensor([0.9, 0.3, 0.6], dtype=torch.float64)[episode]
    layout = episode_layout(episode, torch.cat([torch.arange(n) for n in decisions.tolist()]))
    weight = trajectory_weights(layout, valid=torch.ones_like(episode, dtype=torch.bool))
    assert float((weight * loss).mean()) == pytest.approx(0.6, abs=1e-7)
    # RLinf: mean over all cells [most decisions, episodes] of mask * loss * max_steps / steps.
    cells = int(decisions.max()) * 3
    max_steps = int(decisions.max()) * rows
    theirs = (loss * max_steps / steps[episode]).sum() / cells
    assert float(theirs) == pytest.approx(0.6242, abs=5e-5)
    full = (loss * max_steps / (decisions[episode] * rows)).sum() / cells
    assert float(full) == pytest.approx(0.6, abs=1e-12)
