"""Policy configs that RL cannot train, at the edge of what it can."""

from __future__ import annotations

import pytest
import torch
from contract_builders import a_config, a_policy
from lerobot.configs import NormalizationMode

from pirl.contract.digests import architecture_digest, weights_digest
from pirl.errors import ConfigError, ContractError
from pirl.policies.xvla.action_modes import ActionMode, action_mode_of, make_action_spec
from pirl.policies.xvla.unfit import refuse_unfit_config


def refused(**changes):
    """Fields of a tiny config that are refused once it is changed."""
    config = a_config()
    for name, value in changes.items():
        setattr(config, name, value)
    try:
        refuse_unfit_config(config)
    except ContractError as error:
        return [clause.field for clause in error.clauses]
    return []


WIDTH = ["spec: policy.max_state_dim"]


@pytest.mark.parametrize(
    ("mode", "width", "fields"),
    [
        ("ee6d", 19, WIDTH),
        ("ee6d", 20, []),
        ("ee6d", 21, []),
        ("EE6D", 19, WIDTH),
        ("joint", 13, WIDTH),
        ("joint", 14, []),
        ("joint", 15, []),
        ("so101_bimanual", 19, WIDTH),
        ("so101_bimanual", 20, []),
        ("so101_bimanual", 21, WIDTH),
        ("franka_joint7", 1, []),
    ],
)
def test_modes_that_write_into_the_state_need_its_width(mode, width, fields):
    assert refused(action_mode=mode, max_state_dim=width) == fields


def test_a_policy_without_proprioception_has_no_state_to_write_into():
    assert refused(use_proprio=False) == WIDTH
    assert refused(use_proprio=False, action_mode="franka_joint7") == []


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"num_denoising_steps": 0}, "spec: policy.num_denoising_steps"),
        ({"pad_language_to": "longest"}, "spec: policy.pad_language_to"),
        ({"dtype": "bfloat16"}, "precision: policy.dtype"),
        ({"train_soft_prompts": False}, "trained-parameters: policy.train_soft_prompts"),
        (
            {"train_policy_transformer": False},
            "trained-parameters: policy.train_policy_transformer",
        ),
    ],
)
def test_each_unfit_part_is_named(changes, field):
    assert refused(**changes) == [field]


def test_what_was_found_is_shown():
    config = a_config()
    config.train_soft_prompts = False
    with pytest.raises(ContractError) as caught:
        refuse_unfit_config(config)
    assert [clause.value for clause in caught.value.clauses] == [False]


def test_one_denoising_step_is_enough():
    assert refused(num_denoising_steps=1) == []


@pytest.mark.parametrize("name", ["STATE", "ACTION", "VISUAL"])
def test_no_statistics_of_a_dataset_come_between_the_simulator_and_the_policy(name):
    mapping = dict(a_config().normalization_mapping)
    changed = mapping | {name: NormalizationMode.MEAN_STD}
    fields = [f"units: policy.normalization_mapping.{name}"]
    assert refused(normalization_mapping=changed) == fields
    assert refused(normalization_mapping={k: v for k, v in mapping.items() if k != name}) == []


def a_spec(dims, *, mode="so101_bimanual"):
    return make_action_spec(
        mode,
        action_mode_of(mode, auto_real_dim=3, auto_model_dim=5),
        chunk_size=4,
        executed_steps=2,
        denoising_steps=2,
        executed_dims=dims,
    )


@pytest.mark.parametrize("dims", [(0,), (11,), (0, 11), tuple(range(12))])
def test_real_dims_may_be_executed(dims):
    assert a_spec(dims).executed_dims == dims


@pytest.mark.parametrize("dims", [(), (1, 0), (0, 0), (-1,), (-1, 3), (12,), (0, 12)])
def test_other_dims_may_not(dims):
    with pytest.raises(ConfigError, match=r"within 0\.\.11"):
        a_spec(dims)


def test_auto_executes_what_is_real():
    assert a_spec(None, mode="auto").executed_dims == (0, 1, 2)
    assert a_spec(None, mode="auto").group_of_dim == ("other",) * 5


def test_an_action_mode_that_nobody_wrote_down_is_refused():
    with pytest.raises(ContractError, match="ee6d"):
        action_mode_of("dance", auto_real_dim=3, auto_model_dim=5)


@pytest.mark.parametrize(("hides", "dims"), [(True, (1,)), (False, ())])
def test_grippers_are_hidden_where_the_mode_hides_them(hides, dims):
    mode = ActionMode(
        groups=("joint", "gripper_logit"), real_dims=2, env_dim=2, hides_grippers=hides
    )
    assert mode.hidden_gripper_dims == dims


# Digests


def test_a_digest_of_weights_is_of_names_dtypes_shapes_and_bytes_in_any_order():
    tensors = {"a": torch.arange(6.0), "b": torch.ones(2, dtype=torch.int64)}
    digest = weights_digest(tensors)
    assert digest == weights_digest(dict(reversed(tensors.items())))
    assert digest == weights_digest(
        {k: v.clone().requires_grad_(k == "a") for k, v in tensors.items()}
    )
    others = [
        {"a": tensors["a"], "c": tensors["b"]},
        tensors | {"a": tensors["a"].view(2, 3)},
        tensors | {"a": tensors["a"].view(torch.int32)},
        tensors | {"a": tensors["a"].flip(0)},
        {"a": tensors["a"]},
    ]
    assert len({digest, *map(weights_digest, others)}) == 6
    assert weights_digest({"a": torch.arange(6.0).view(2, 3).T}) == weights_digest(
        {"a": torch.arange(6.0).view(2, 3).T.contiguous()}
    )


def test_a_digest_of_the_architecture_is_of_layout_and_spec_and_not_of_values():
    config = a_config()
    digest = architecture_digest(a_policy(config))
    assert digest == architecture_digest(a_policy(config, seed=1))
    assert digest != architecture_digest(a_policy(config, executed_dims=(0, 1)))
    assert digest != architecture_digest(a_policy(a_config(num_domains=2)))
    double = a_policy(config)
    double.module.double()
    assert digest != architecture_digest(double)
