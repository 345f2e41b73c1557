"""Where a policy is built, and views that are not square."""

from __future__ import annotations

import pytest
import torch
from contract_builders import ALL_MODES, a_config, a_policy

from pirl.policies.xvla.build import build_policy
from pirl.policies.xvla.inputs import tokens_per_view


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


@pytest.mark.parametrize("mode", ALL_MODES)
def test_the_action_feature_of_a_tiny_config_is_as_wide_as_the_environment(mode):
    config = a_config(mode)
    width = {"ee6d": 20, "joint": 14, "so101_bimanual": 12, "agibot_ee6d": 20, "franka_joint7": 7}
    assert config.output_features["action"].shape == (width.get(mode, 4),)
    assert a_policy(config).spec.env_dim == width.get(mode, 4)
