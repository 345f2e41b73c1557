"""Streams of random numbers are fixed: a resumed run and a new one draw the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pirl.algorithm.pi_rl import PiRLAlgorithmConfig
from pirl.algorithm.seeding import Stream, seeded_generator


def test_the_numbers_of_the_streams_never_change():
    assert {stream.name: int(stream) for stream in Stream} == {
        "CRITIC_INIT": 1,
        "NOISE_HEAD_INIT": 2,
        "SHUFFLE_ADVANTAGES": 3,
        "MINIBATCH": 4,
        "VALUE_MINIBATCH": 5,
        "DEMO_NOISE": 6,
        "DEMO_ROWS": 7,
    }


@pytest.mark.parametrize("position", [(), (4,), (4, 2)])
def test_a_generator_is_seeded_by_63_bits_of_its_arguments(position):
    entropy = np.random.SeedSequence([7, 3, *position]).generate_state(2, np.uint64)
    generator = seeded_generator(7, Stream.SHUFFLE_ADVANTAGES, *position)
    assert generator.initial_seed() == int(entropy[0]) // 2
    assert generator.device == torch.device("cpu")


def test_each_argument_matters():
    given = [
        (7, Stream.MINIBATCH, 1, 2),
        (8, Stream.MINIBATCH, 1, 2),
        (7, Stream.DEMO_NOISE, 1, 2),
        (7, Stream.MINIBATCH, 2, 1),
        (7, Stream.MINIBATCH, 1),
    ]
    assert len({seeded_generator(*arguments).initial_seed() for arguments in given}) == len(given)


def test_a_config_that_is_told_nothing_has_the_stated_defaults():
    config = PiRLAlgorithmConfig()
    assert (config.total_updates, config.seed) == (500, 0)
