"""Groups instead of a critic: what stands where the critic's data would."""

from __future__ import annotations

import torch
from toys import Episode, ToyPolicy, a_batch, a_recipe, an_algorithm


def test_without_a_critic_every_decision_has_one_zero_of_each():
    algorithm = an_algorithm(ToyPolicy(), a_recipe(adv_type="grpo", group_size=2))
    episodes = (
        Episode(rewards=(0.0, 1.0), group=0),
        Episode(rewards=(0.0, 0.0, 0.0), truncated=True, group=0),
    )
    prepared = algorithm._prepare(a_batch(algorithm, episodes=episodes))
    assert torch.equal(prepared.critic_inputs, torch.zeros(5, 1))
    assert torch.equal(prepared.old_value, torch.zeros(5))
    assert prepared.metrics["groups"] == prepared.metrics["groups_kept"] == 1.0
