"""SmolVLA from a distribution of its own: every clause, stock sampling, saving, one update."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lerobot.configs.policies import PreTrainedConfig
from plugin_builders import IMAGE, a_config, a_policy_section, write_config, write_vlm

from pirl.algorithm.chain import replay_log_prob, sample_chunk
from pirl.algorithm.pi_rl import PiRLAlgorithm, PiRLAlgorithmConfig
from pirl.config.check import check_config
from pirl.config.load import load_config
from pirl.config.recipe import FlowNoiseConfig, FlowSDEConfig, PiRLConfig
from pirl.contract.check import check_flow_policy
from pirl.contract.digests import weights_digest
from pirl.contract.flow_policy import FlowPolicy
from pirl.contract.registry import build_flow_policy, policy_kind
from pirl.errors import CheckpointError, ConfigError, ContractError
from pirl.records import DecisionBatch, Observation

TASKS = ("move the ball to the red disc", "move the ball to the blue disc")
VARIANTS = {
    "flow-sde": {"flow_sde": FlowSDEConfig()},
    "flow-noise": {"flow_noise": FlowNoiseConfig()},
}


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    return write_vlm(tmp_path_factory.mktemp("vlm"))


@pytest.fixture(scope="module")
def config(vlm, tmp_path_factory):
    file = write_config(tmp_path_factory.mktemp("config") / "c.json", a_config(vlm))
    return load_config(file).cfg.policy


def a_policy(config, *, seed=0):
    return build_flow_policy(config, executed_dims=None, device="cpu", seed=seed)


def raw(seed):
    rng = np.random.default_rng(seed)
    images = {IMAGE: rng.integers(0, 256, (3, 64, 64), dtype=np.uint8)}
    return SimpleNamespace(images=images, state=rng.random(4, dtype=np.float32))


def an_observation(policy, rows=3):
    return Observation.cat([policy.prepare(raw(i), TASKS[i % 2]) for i in range(rows)])


def test_every_clause_of_the_contract_is_kept(config):
    policy = a_policy(config)
    assert isinstance(policy, FlowPolicy)
    report = check_flow_policy(policy, an_observation(policy))
    assert [(r.name, r.detail) for r in report.results if r.detail] == []
    assert report.passed


def test_without_noise_the_chain_is_that_of_the_stock_sampler(config):
    policy = a_policy(config)
    observation, rows = an_observation(policy), 3
    pirl = PiRLConfig(variant="flow-sde", flow_sde=FlowSDEConfig(), base_sampler=policy.sampler)
    rngs, again = ([torch.Generator().manual_seed(i) for i in range(rows)] for _ in range(2))
    sampled = sample_chunk(
        policy, policy.encode(observation), pirl=pirl, noise_head=None, rngs=rngs, stochastic=False
    )
    shape = policy.spec.chunk_size, policy.spec.model_dim
    noise = torch.stack([torch.randn(shape, generator=rng) for rng in again])
    stock = policy_kind("smolvla").stock_generate(policy.module, observation, noise)
    ours = policy.postprocess(sampled.chunk)
    assert ours.shape == stock.shape == (rows, 3, 2)
    torch.testing.assert_close(ours, stock, atol=2e-6, rtol=0)
    native = replace(pirl, base_sampler="native")
    other = sample_chunk(
        policy,
        policy.encode(observation),
        pirl=native,
        noise_head=None,
        rngs=[torch.Generator().manual_seed(i) for i in range(rows)],
        stochastic=False,
    )
    assert (policy.postprocess(other.chunk) - stock).abs().max() > 1e-4


def test_a_saved_policy_acts_alike_in_stock_lerobot(config, tmp_path):
    policy = a_policy(config)
    folder = policy.save(tmp_path / "saved", env_type="pointreach")
    stock = policy_kind("smolvla").load_stock(folder)
    assert weights_digest(stock.state_dict()) == weights_digest(policy.module.state_dict())
    observation, noise = an_observation(policy), torch.randn(3, 3, 4)
    first, second = (
        policy_kind("smolvla").stock_generate(module, observation, noise)
        for module in (policy.module, stock)
    )
    assert torch.equal(first, second)
    assert (folder / "policy_preprocessor.json").is_file()
    assert PreTrainedConfig.from_pretrained(folder).type == "smolvla"


def test_weights_come_from_the_folder_or_from_the_seed(config, tmp_path):
    one, other = a_policy(config, seed=1), a_policy(config, seed=2)
    assert weights_digest(one.module.state_dict()) != weights_digest(other.module.state_dict())
    start = replace(config, pretrained_path=one.save(tmp_path / "one", env_type="pointreach"))
    again = a_policy(start, seed=2)
    assert weights_digest(again.module.state_dict()) == weights_digest(one.module.state_dict())
    with pytest.raises(CheckpointError, match="cannot be built"):
        a_policy(replace(config, pretrained_path=tmp_path / "none"))


def a_batch(algorithm, *, rows=6):
    policy = algorithm.policy
    observation = an_observation(policy, rows)
    sampled = sample_chunk(
        policy,
        policy.encode(observation),
        pirl=algorithm.config.pirl,
        noise_head=algorithm.noise_head,
        rngs=[torch.Generator().manual_seed(row) for row in range(rows)],
    )
    zeros = torch.zeros(rows, dtype=torch.int64)
    last = torch.arange(rows) % 2 == 1
    return DecisionBatch(
        observation=observation,
        next_observation=an_observation(policy, rows),
        action=sampled.chunk[:, : policy.spec.executed_steps],
        reward=(torch.arange(rows) == 1).float(),
        terminated=torch.arange(rows) == 1,
        truncated=last & (torch.arange(rows) != 1),
        fields={
            **sampled.fields,
            "pirl_version": zeros,
            "pirl_episode_id": torch.arange(rows) // 2,
            "pirl_chunk_idx": torch.arange(rows) % 2,
            "pirl_valid_steps": zeros + policy.spec.executed_steps,
            "pirl_group_id": zeros - 1,
            "is_intervention": zeros,
        },
        policy_version=0,
    )


@pytest.mark.parametrize("value_source", ["vlm", "vlm_tokens", "action_tokens"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_update_replays_what_was_recorded_and_moves_the_expert_alone(
    config, variant, value_source
):
    pirl = PiRLConfig(
        variant=variant,
        base_sampler="euler",
        value_hidden=(16,),
        value_source=value_source,
        global_batch=6,
        micro_batch=3,
        update_epochs=1,
        actor_lr=1e-3,
        **VARIANTS[variant],
    )
    policy = a_policy(config)
    algorithm = PiRLAlgorithm(policy, PiRLAlgorithmConfig(pirl=pirl, seed=0))
    batch = a_batch(algorithm)
    replayed = replay_log_prob(
        policy,
        policy.encode(batch.observation),
        fields=batch.fields,
        pirl=pirl,
        noise_head=algorithm.noise_head,
    )
    assert replayed.log_prob.isfinite().all()
    frozen = weights_digest(policy.frozen_parameters())
    before = {name: p.detach().clone() for name, p in policy.trained_parameters().items()}
    algorithm.update(iter([batch]))
    assert weights_digest(policy.frozen_parameters()) == frozen
    still = [n for n, p in policy.trained_parameters().items() if torch.equal(p, before[n])]
    assert still == []


def test_the_supervised_loss_falls_and_its_draws_are_the_generators(config):
    policy = a_policy(config)
    actions = torch.rand(6, 3, 2, generator=torch.Generator().manual_seed(1))
    batch = policy.demo_batch(an_observation(policy, 6), actions)
    optimizer = torch.optim.Adam(policy.trained_parameters().values(), lr=3e-3)
    one, two = (policy.demo_loss(batch, rng=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two)
    losses = []
    for step in itertools.islice(itertools.count(), 60):
        loss = policy.demo_loss(batch, rng=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_an_observation_of_another_robot_is_refused(config):
    policy = a_policy(config)
    other = replace(an_observation(policy), images={"observation.images.wrist": torch.zeros(3)})
    with pytest.raises(ContractError, match="wrist"):
        policy.encode(other)


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("policy", "pad_language_to", "longest"),
        ("policy", "adapt_to_pi_aloha", True),
        ("policy", "use_cache", False),
        ("policy", "prefix_length", 64),
        ("policy", "num_steps", 0),
        ("policy", "n_action_steps", 4),
        ("pirl", "base_sampler", "native"),
        ("pirl", "train_scope", "all"),
        ("pirl", "gripper_mode", "bernoulli"),
        ("pirl", "executed_dims", [0, 2]),
    ],
)
def test_a_config_that_rl_cannot_train_is_refused_by_the_kinds_own_rules(
    vlm, tmp_path, section, field, value
):
    tree = a_config(vlm)
    tree[section] |= {field: value}
    with pytest.raises(ConfigError) as caught:
        check_config(write_config(tmp_path / "c.json", tree))
    assert [error.field for error in caught.value.errors] == [f"{section}.{field}"]


def test_statistics_and_unknown_keys_of_the_policy_are_refused(vlm, tmp_path):
    tree = a_config(vlm)
    mapping = {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "IDENTITY"}
    tree["policy"] = a_policy_section(vlm, normalization_mapping=mapping, shoe_size=43)
    with pytest.raises(ConfigError) as caught:
        check_config(write_config(tmp_path / "c.json", tree))
    assert {error.field for error in caught.value.errors} == {
        "policy.normalization_mapping.STATE",
        "policy.shoe_size",
    }
