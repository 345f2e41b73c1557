"""Losses of one batch on the real X-VLA class, for both variants."""

import math

import pytest
import torch
from contract_builders import a_config, a_policy, an_observation

from pirl.algorithm.chain import sample_chunk
from pirl.algorithm.pi_rl import PiRLAlgorithm, PiRLAlgorithmConfig
from pirl.config.recipe import FlowNoiseConfig, FlowSDEConfig, PiRLConfig
from pirl.contract.digests import weights_digest
from pirl.records import DecisionBatch

VARIANTS = {
    "flow-sde": {"flow_sde": FlowSDEConfig()},
    "flow-noise": {"flow_noise": FlowNoiseConfig()},
}


def an_algorithm(variant):
    knobs = PiRLConfig(
        variant=variant, value_hidden=(16,), value_last_init="normal", **VARIANTS[variant]
    )
    policy = a_policy(executed_dims=range(10))
    return PiRLAlgorithm(policy, PiRLAlgorithmConfig(pirl=knobs, seed=0))


def a_batch(algorithm):
    """Two episodes of two decisions; the first one succeeds."""
    rows, config = 4, a_config()
    observation = an_observation(config, rows=rows)
    sampled = sample_chunk(
        algorithm.policy,
        algorithm.policy.encode(observation),
        pirl=algorithm.config.pirl,
        noise_head=algorithm.noise_head,
        rngs=[torch.Generator().manual_seed(row) for row in range(rows)],
    )
    executed = algorithm.policy.spec.executed_steps
    zeros = torch.zeros(rows, dtype=torch.int64)
    return DecisionBatch(
        observation=observation,
        next_observation=an_observation(config, rows=rows, seed=1),
        action=sampled.chunk[:, :executed],
        reward=torch.tensor([0.0, 1.0, 0.0, 0.0]),
        terminated=torch.tensor([False, True, False, False]),
        truncated=torch.tensor([False, False, False, True]),
        fields={
            **sampled.fields,
            "pirl_version": zeros,
            "pirl_episode_id": torch.tensor([0, 0, 1, 1]),
            "pirl_chunk_idx": torch.tensor([0, 1, 0, 1]),
            "pirl_valid_steps": zeros + executed,
            "pirl_group_id": zeros - 1,
            "is_intervention": zeros,
        },
        policy_version=0,
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_call_gives_losses_and_metrics_and_changes_nothing(variant):
    algorithm = an_algorithm(variant)
    batch, policy = a_batch(algorithm), algorithm.policy
    before, rng = weights_digest(policy.module.state_dict()), torch.get_rng_state()
    got = algorithm.forward_batch(batch)
    assert {"policy_loss", "value_loss", "total_loss"} <= set(got.losses)
    assert all(loss.ndim == 0 and loss.isfinite() for loss in got.losses.values())
    assert got.metrics
    assert all(math.isfinite(value) for value in got.metrics.values())
    assert weights_digest(policy.module.state_dict()) == before
    assert torch.equal(torch.get_rng_state(), rng)
    assert not any(module.training for module in policy.module.modules())


@pytest.mark.parametrize("variant", VARIANTS)
def test_its_gradient_reaches_what_trains_and_nothing_frozen(variant):
    algorithm = an_algorithm(variant)
    algorithm.forward_batch(a_batch(algorithm)).total.backward()
    policy = algorithm.policy
    assert all(p.grad is not None for p in policy.trained_parameters().values())
    assert all(p.grad is None for p in policy.frozen_parameters().values())
    assert all(p.grad is not None for p in algorithm.critic.parameters())
    heads = list(algorithm.noise_head.parameters()) if algorithm.noise_head else []
    assert all(p.grad is not None for p in heads)
    assert bool(heads) is (variant == "flow-noise")
