"""Where a policy is built, and views that are not square."""

from __future__ import annotations

import torch
from contract_builders import a_config, a_policy

from pirl.contract.xvla import build_policy
from pirl.contract.xvla_inputs import tokens_per_view


def test_a_policy_is_built_on_the_device_that_was_asked_for():
    policy = build_policy(a_config(), executed_dims=None, device="meta", seed=0)
    assert policy.device == torch.device("meta")
    assert {p.device.type for p in policy.module.parameters()} == {"meta"}


def test_height_and_width_of_a_view_count_their_own_tokens():
    config = a_config()
    config.resize_imgs_with_padding = (64, 32)
    policy = a_policy(config)
    # Two strides, 8 and 2: 4 x 2 tokens, and the pooled one.
    assert policy.primary_view_shape == (9, 64)
    assert tokens_per_view(policy.module.model, (64, 32)) == 9
    assert tokens_per_view(policy.module.model, (32, 128)) == 17
