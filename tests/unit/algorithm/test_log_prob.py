"""From steps to the log-prob of a decision: joint terms, reductions, entropy, divergence."""

import math

import pytest
import torch
from flow_toys import (
    MixingPolicy,
    a_context,
    a_head,
    a_plain_spec,
    a_spec,
    at_step,
    flow_noise,
    flow_sde,
    generators,
)
from torch.distributions import Normal, kl_divergence

from pirl.algorithm.chain import (
    recorded_log_prob,
    reduce_log_prob,
    replay_log_prob,
    sample_chunk,
    step_kl,
)
from pirl.errors import ContractError

ROWS = 6


def play(pirl, *, spec=None, policy=None, fields=None, rows=ROWS):
    """Sampled fields (with `fields` added) and their replay."""
    spec = spec or a_spec()
    head = a_head(spec, pirl, width=8)
    actor = MixingPolicy(spec)
    drawn = sample_chunk(actor, a_context(rows), pirl=pirl, noise_head=head, rngs=generators(rows))
    recorded = dict(drawn.fields) | (fields or {})
    with torch.no_grad():
        replayed = replay_log_prob(
            policy or actor, a_context(rows), fields=recorded, pirl=pirl, noise_head=head
        )
    return recorded, replayed


def executed(valid=(1, 2, 3, 4, 4, 4), human=(0, 0, 0, 0, 1, 0)):
    return {
        "pirl_valid_steps": torch.tensor(valid),
        "is_intervention": torch.tensor(human),
    }


def reduced(log_prob, mask, level):
    return reduce_log_prob(log_prob, mask=mask, level=level)


@pytest.mark.parametrize(
    "pirl", [flow_sde(), flow_sde(sde={"stochastic_steps": "all"}), flow_noise()]
)
def test_chunk_level_is_the_sum_of_action_level_and_of_token_level(pirl):
    _, replayed = play(pirl, fields=executed())
    log_prob, mask = replayed.log_prob.double(), replayed.mask
    chunk = reduced(log_prob, mask, "chunk")
    action = reduced(log_prob, mask, "action")
    token = reduced(log_prob, mask, "token")
    assert chunk.value.shape == log_prob.shape[:2]
    torch.testing.assert_close(chunk.value, action.value.sum(-1), rtol=0, atol=3e-13)
    torch.testing.assert_close(chunk.value, token.value.sum((-2, -1)), rtol=0, atol=3e-13)
    assert torch.equal(chunk.mask, action.mask.any(-1))
    assert torch.equal(action.mask, token.mask.any(-1))
    assert chunk.mask[:, 0].tolist() == [True] * 4 + [False, True]


def test_unknown_level_is_refused():
    with pytest.raises(ContractError) as caught:
        reduced(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1, dtype=torch.bool), "mean")
    assert caught.value.clauses[0].field == "pirl.logprob_level"


def test_reduction_sums_and_never_averages():
    ones = torch.ones(2, 1, 4, 5)
    assert reduced(ones, ones > 0, "chunk").value.tolist() == [[20.0], [20.0]]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_joint_log_prob_of_flow_noise_has_the_initial_term_and_every_step(reduction):
    spec = a_plain_spec(steps=3, chunk=2, dims=2)
    pirl = flow_noise(noise={"joint_reduction": reduction})
    fields, replayed = play(pirl, spec=spec)
    chain = fields["pirl_chain"]
    joint = Normal(0.0, 1.0).log_prob(chain[:, 0]).sum((1, 2))
    for k in range(3):
        step = Normal(replayed.mean[:, k], replayed.std[:, k])
        joint = joint + step.log_prob(chain[:, k + 1]).sum((1, 2))
    terms = 4 if reduction == "mean" else 1
    got = reduced(replayed.log_prob, replayed.mask, "chunk").value[:, 0]
    torch.testing.assert_close(got, joint / terms, rtol=1e-5, atol=1e-5)


def test_entropy_of_flow_sde_is_the_mean_over_counted_elements():
    _, replayed = play(flow_sde(sde=at_step(4, 5)))
    stds = torch.tensor([0.005, 0.005, 0.02, 1.0])
    expected = float(Normal(torch.zeros(4), stds).entropy().mean())
    torch.testing.assert_close(replayed.entropy, torch.full((ROWS, 1), expected))


def test_entropy_of_flow_noise_averages_the_initial_term_and_every_step():
    spec = a_plain_spec(steps=3, chunk=2, dims=2)
    _, replayed = play(flow_noise(), spec=spec)
    initial = 0.5 * math.log(2 * math.pi * math.e)
    steps = Normal(replayed.mean, replayed.std).entropy().mean((2, 3)).sum(1)
    torch.testing.assert_close(replayed.entropy[:, 0], (initial + steps) / 4)


@pytest.mark.parametrize(
    "pirl",
    [
        flow_sde(),
        flow_sde(sde={"stochastic_steps": "all"}),
        flow_noise(),
        flow_noise(gripper_mode="bernoulli"),
        flow_noise(mask_unexecuted_rows="always"),
        flow_noise(noise={"joint_reduction": "sum"}),
    ],
)
def test_recorded_log_prob_loses_what_was_not_executed_as_the_replay_does(pirl):
    fields, replayed = play(pirl, fields=executed())
    recorded, mask = recorded_log_prob(a_spec(), pirl, fields)
    assert torch.equal(mask, replayed.mask)
    torch.testing.assert_close(recorded, replayed.log_prob, rtol=0, atol=2e-6)
    assert not recorded[4].any()
    untouched, _ = recorded_log_prob(a_spec(), pirl, {**fields, **executed((4,) * 6, (0,) * 6)})
    assert not torch.equal(untouched, recorded)


def test_element_that_the_actor_never_scored_cannot_enter_the_ratio():
    fields, _ = play(flow_sde(sde=at_step(4, 5), gripper_mode="none"))
    with pytest.raises(ContractError) as caught:
        recorded_log_prob(a_spec(), flow_sde(sde=at_step(4, 5)), fields)
    assert caught.value.clauses[0].field == "pirl_logprob_mask"


def test_replay_with_other_weights_changes_the_log_prob_and_the_kl():
    pirl = flow_sde()
    _, here = play(pirl)
    _, there = play(pirl, policy=MixingPolicy(a_spec(), seed=1))
    assert not torch.allclose(here.log_prob, there.log_prob)
    assert (step_kl(there, here) > 0).all()
    assert not step_kl(here, here).any()


def test_kl_of_constant_noise_is_the_masked_sum_of_scaled_squared_distances():
    pirl = flow_sde()
    _, here = play(pirl)
    _, there = play(pirl, policy=MixingPolicy(a_spec(), seed=1))
    expected = ((there.mean - here.mean) ** 2 / (2 * here.std**2) * here.step_mask).sum((2, 3))
    torch.testing.assert_close(step_kl(there, here), expected, rtol=1e-4, atol=1e-4)


def test_kl_of_learned_noise_is_measured_from_the_reference():
    pirl, spec = flow_noise(), a_plain_spec(steps=3, chunk=2, dims=2)
    _, here = play(pirl, spec=spec)
    _, there = play(pirl, spec=spec, policy=MixingPolicy(spec, seed=1))
    laws = [Normal(replayed.mean, replayed.std) for replayed in (there, here)]
    expected = kl_divergence(*laws).sum((2, 3))
    torch.testing.assert_close(step_kl(there, here), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(step_kl(here, there), expected, rtol=1e-2)


def test_replaying_twice_gives_a_ratio_of_exactly_one():
    for pirl in (flow_sde(), flow_noise()):
        _, first = play(pirl)
        _, second = play(pirl)
        assert torch.equal(first.log_prob, second.log_prob)
