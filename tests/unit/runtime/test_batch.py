"""One decision to a transition and back: field placement, padding and dtypes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from rollout_toys import INPUTS, SPEC

from pirl.records import Observation
from pirl.runtime.batch import (
    build_batch,
    build_transition,
    observation_of,
    packed,
    state_of,
    unpacked,
)


def a_state(value):
    return {
        "observation.images.image": torch.full((1, 3, 2, 2), value, dtype=torch.uint8),
        "observation.images.image2": torch.full((1, 3, 2, 2), value + 1, dtype=torch.uint8),
        "observation.state": torch.full((1, 4), float(value)),
    }


def words(value):
    return {
        "pirl_input_ids": torch.full((1, 3), value),
        "pirl_domain_id": torch.tensor([value + 1]),
    }


def a_transition(*, episode=0, chunk=0, executed=5, rewards=(0.0, 1.0), **changes):
    values = {
        "state": a_state(chunk),
        "next_state": a_state(chunk + 1),
        "action": torch.full((1, executed, 2), float(chunk)),
        "step_rewards": np.asarray(rewards),
        "valid_steps": len(rewards),
        "terminated": False,
        "truncated": False,
        "info": {
            "pirl_episode_id": torch.tensor([episode]),
            "pirl_chunk_idx": torch.tensor([chunk]),
            **words(7),
        },
        "spec": replace(SPEC, chunk_size=executed, executed_steps=executed),
    }
    return build_transition(**(values | changes))


def test_rewards_of_a_short_chunk_are_padded_with_zeros():
    made = a_transition(rewards=(0.25, 0.5))
    rewards = made["complementary_info"]["pirl_step_rewards"]
    assert rewards.tolist() == [[0.25, 0.5, 0.0, 0.0, 0.0]]
    assert rewards.dtype == torch.float32
    assert made["reward"] == 0.75
    assert made["complementary_info"]["pirl_valid_steps"].tolist() == [2]


def test_rewards_of_a_full_chunk_are_all_there():
    made = a_transition(rewards=(1, 2, 3, 4, 5))
    assert made["complementary_info"]["pirl_step_rewards"].tolist() == [[1, 2, 3, 4, 5]]


def test_a_decision_of_the_policy_is_no_intervention():
    assert a_transition()["complementary_info"]["is_intervention"].tolist() == [0]


@pytest.mark.parametrize(("terminated", "truncated"), [(True, False), (False, True)])
def test_done_is_the_end_of_the_task_and_never_the_time_limit(terminated, truncated):
    made = a_transition(terminated=terminated, truncated=truncated)
    assert (made["done"], made["truncated"]) == (terminated, truncated)
    batch = build_batch([made], policy_version=3, inputs=INPUTS)
    assert batch.terminated.tolist() == [terminated]
    assert batch.truncated.tolist() == [truncated]


def test_an_observation_survives_the_way_through_a_transition():
    observation = Observation(
        images={k: v for k, v in a_state(5).items() if k != "observation.state"},
        state=a_state(5)["observation.state"],
        inputs={"input_ids": words(7)["pirl_input_ids"], "domain_id": words(7)["pirl_domain_id"]},
    )
    again = observation_of(state_of(observation), words(7), inputs=INPUTS)
    assert list(again.images) == list(observation.images)
    assert all(torch.equal(again.images[k], observation.images[k]) for k in again.images)
    assert torch.equal(again.state, observation.state)
    assert torch.equal(again.inputs["input_ids"], observation.inputs["input_ids"])
    assert torch.equal(again.inputs["domain_id"], observation.inputs["domain_id"])


def test_every_field_of_a_batch_is_in_the_order_of_episode_and_chunk():
    given = [
        a_transition(episode=2, chunk=1, rewards=(2.0, 1.0)),
        a_transition(episode=1, chunk=0, rewards=(1.0, 0.0)),
        a_transition(episode=2, chunk=0, rewards=(2.0, 0.0)),
    ]
    batch = build_batch(given, policy_version=9, inputs=INPUTS)
    assert batch.policy_version == 9
    assert batch.fields["pirl_episode_id"].tolist() == [1, 2, 2]
    assert batch.fields["pirl_chunk_idx"].tolist() == [0, 0, 1]
    assert batch.reward.tolist() == [1.0, 2.0, 3.0]
    assert batch.action[:, 0, 0].tolist() == [0.0, 0.0, 1.0]
    assert batch.observation.state[:, 0].tolist() == [0.0, 0.0, 1.0]
    assert batch.next_observation.state[:, 0].tolist() == [1.0, 1.0, 2.0]
    assert batch.observation.images["observation.images.image2"][:, 0, 0, 0].tolist() == [1, 1, 2]
    assert batch.next_observation.inputs["domain_id"].tolist() == [8, 8, 8]


def test_a_batch_that_is_packed_arrives_to_the_bit():
    given = [
        a_transition(episode=1, chunk=0, rewards=(1 / 3, 0.0)),
        a_transition(episode=1, chunk=1, rewards=(2.0, 0.0), terminated=True),
        a_transition(episode=2, chunk=0, rewards=(0.0, 0.5), truncated=True),
    ]
    batch = build_batch(given, policy_version=9, inputs=INPUTS)
    # A view with gaps, as a slice of a larger tensor is.
    wide = torch.arange(24, dtype=torch.float64).reshape(3, 8)[:, ::2]
    batch = replace(batch, fields={**batch.fields, "pirl_wide": wide})
    again = unpacked(packed(batch))
    assert (again.policy_version, type(again.policy_version)) == (9, int)
    for field in ("action", "reward", "terminated", "truncated"):
        assert same(getattr(again, field), getattr(batch, field)), field
    assert again.fields.keys() == batch.fields.keys()
    assert [n for n, value in batch.fields.items() if not same(again.fields[n], value)] == []
    for side in ("observation", "next_observation"):
        there, back = getattr(batch, side), getattr(again, side)
        assert same(back.state, there.state)
        for part in ("images", "inputs"):
            values, arrived = getattr(there, part), getattr(back, part)
            assert values
            assert arrived.keys() == values.keys()
            assert [n for n, value in values.items() if not same(arrived[n], value)] == []


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)
