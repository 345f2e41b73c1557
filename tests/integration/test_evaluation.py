"""Evaluation on the real MetaWorld: one schedule, one result, however the episodes are spread over slots."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pirl.config.load import load_config
from pirl.config.train import policy_of
from pirl.contract.xvla import build_policy, save_pretrained
from pirl.errors import ConfigError
from pirl.evaluation.checkpoint import Protocol, evaluate_checkpoint

pytestmark = pytest.mark.integration
CONFIG = "configs/train_config_pirl_embedded.json"
# Two decisions an episode.
PROTOCOL = Protocol(episodes_per_task=5, seed=3, num_envs=2, num_workers=0)


@pytest.fixture(scope="module")
def cfg():
    return load_config(CONFIG, ["--env.episode_length=40"]).cfg


@pytest.fixture(scope="module")
def checkpoint(cfg, tmp_path_factory):
    policy = build_policy(policy_of(cfg), executed_dims=None, device="cpu", seed=1)
    return save_pretrained(policy, tmp_path_factory.mktemp("policy"), for_libero=False)


def run(checkpoint, cfg, **changes):
    """Records, and every action and final state bit by episode."""
    bits = {}

    def keep(episode):
        steps = episode.transitions
        last = steps[-1]["next_state"]["observation.state"]
        bits[episode.record.init_state_id] = torch.cat([s["action"] for s in steps]), last

    records = evaluate_checkpoint(
        checkpoint, cfg, protocol=replace(PROTOCOL, **changes), on_episode=keep
    )
    return records, bits


@pytest.fixture(scope="module")
def reference(checkpoint, cfg):
    return run(checkpoint, cfg)


@pytest.mark.parametrize(("num_envs", "num_workers"), [(1, 0), (3, 2)])
def test_slots_and_workers_change_no_bit_of_an_evaluation(
    checkpoint, cfg, reference, num_envs, num_workers
):
    records, bits = run(checkpoint, cfg, num_envs=num_envs, num_workers=num_workers)
    assert records == reference[0]
    for state, (actions, last) in reference[1].items():
        assert torch.equal(bits[state][0], actions)
        assert torch.equal(bits[state][1], last)


def test_an_episode_is_the_same_in_a_longer_schedule(checkpoint, cfg, reference):
    records, _ = run(checkpoint, cfg, episodes_per_task=2)
    assert records == reference[0][:2]


def test_another_seed_draws_other_start_noise_on_the_same_states(checkpoint, cfg, reference):
    records, bits = run(checkpoint, cfg, seed=4, episodes_per_task=1)
    assert records[0].init_state_id == reference[0][0].init_state_id
    state = records[0].init_state_id
    assert not torch.equal(bits[state][0], reference[1][state][0])


def test_a_folder_without_weights_is_refused(checkpoint, cfg, tmp_path):
    with pytest.raises(ConfigError, match=r"policy\.path"):
        evaluate_checkpoint(tmp_path, cfg, protocol=PROTOCOL)
