"""Passes have one size: padded where too few are left, and never larger than asked."""

from __future__ import annotations

import pytest
import torch
from toys import ToyPolicy, a_batch, a_recipe, an_algorithm, an_observation

from pirl.algorithm.networks import (
    build_networks,
    encode,
    encode_rows,
    micro_batches,
    per_micro_batch,
)
from pirl.config.recipe import FlowNoiseConfig


class Counting(ToyPolicy):
    """Writes down how many rows each pass has, and whether a graph was asked for."""

    def __init__(self):
        super().__init__()
        self.passes = []

    def encode(self, observation, *, gradient=False):
        self.passes.append((len(observation), gradient))
        return super().encode(observation, gradient=gradient)


@pytest.mark.parametrize(
    ("rows", "micro_batch", "sizes"),
    [(5, 2, [2, 2, 2]), (4, 2, [2, 2]), (1, 4, [4]), (3, 3, [3])],
)
def test_observations_are_encoded_in_passes_of_one_size(rows, micro_batch, sizes):
    policy, observation = Counting(), an_observation(rows, seed=1)
    context = encode(policy, observation, size=micro_batch)
    assert policy.passes == [(size, False) for size in sizes]
    assert torch.equal(context.tensors["proprio"], observation.state)


def test_some_rows_are_encoded_in_their_order():
    policy, observation = Counting(), an_observation(4, seed=1)
    context = encode_rows(policy, observation, torch.tensor([2, 0]), gradient=True)
    assert policy.passes == [(2, True)]
    assert torch.equal(context.tensors["proprio"], observation.state[[2, 0]])


def test_padding_repeats_a_row_and_does_not_count():
    parts = list(micro_batches(torch.tensor([7, 8, 9]), size=2))
    assert [part.rows.tolist() for part in parts] == [[7, 8], [9, 7]]
    assert [part.live.tolist() for part in parts] == [[True, True], [True, False]]
    doubled = per_micro_batch(lambda rows: 2 * rows, torch.tensor([7, 8, 9]), size=2)
    assert doubled.tolist() == [14, 16, 18]


@pytest.mark.parametrize("variant", ["flow-sde", "flow-noise"])
def test_only_flow_noise_has_a_noise_head_whatever_sections_the_recipe_has(variant):
    pirl = a_recipe(variant, flow_noise=FlowNoiseConfig())
    nets = build_networks(ToyPolicy(), pirl, seed=0)
    assert (nets.noise_head is not None) == (variant == "flow-noise")
    assert any(name.startswith("noise_head.") for name in nets.parameters()) == (
        variant == "flow-noise"
    )


def test_no_pass_of_an_update_is_larger_than_a_micro_batch():
    sizes = []

    class Predicting(ToyPolicy):
        def predict(self, context, x, t):
            sizes.append(len(x))
            return super().predict(context, x, t)

    algorithm = an_algorithm(Predicting(), a_recipe(kl_beta=0.1, micro_batch=4))
    batch = a_batch(algorithm)
    sizes.clear()
    algorithm.update(iter([batch]))
    assert set(sizes) == {4}
