"""Which elements of a recorded decision count, given what was really executed and by whom."""

import pytest
import torch
from flow_toys import a_spec, flow_noise, flow_sde

from pirl.algorithm.mask import decision_masks, density_coordinates, noise_coordinates

STEPS, LAST = 5, 4


def masks(pirl, k, **fields):
    step = torch.tensor([[k]]) if k is not None else torch.arange(STEPS)[None]
    given = {"pirl_valid_steps": torch.tensor([2])} if "valid" not in fields else {}
    if fields.get("valid") is not None:
        given["pirl_valid_steps"] = torch.tensor([fields["valid"]])
    if "human" in fields:
        given["is_intervention"] = torch.tensor([fields["human"]])
    return decision_masks(a_spec(), pirl, step=step, fields=given)


def rows_counted(mask):
    return mask[0, -1].any(dim=-1).tolist()


FIRST_TWO, ALL = [True, True, False, False], [True] * 4


@pytest.mark.parametrize(
    ("rule", "level", "k", "expected"),
    [
        ("auto", "chunk", 1, ALL),
        ("auto", "chunk", LAST, FIRST_TWO),
        ("never", "chunk", 1, ALL),
        ("never", "chunk", LAST, ALL),
        ("always", "chunk", 1, FIRST_TWO),
        ("always", "chunk", LAST, FIRST_TWO),
        ("auto", "action", 1, FIRST_TWO),
        ("auto", "token", 1, FIRST_TWO),
        ("never", "action", 1, FIRST_TWO),
        ("never", "token", LAST, FIRST_TWO),
    ],
)
def test_rows_that_never_ran_are_dropped_by_the_rule(rule, level, k, expected):
    pirl = flow_sde(mask_unexecuted_rows=rule, logprob_level=level)
    assert rows_counted(masks(pirl, k).sample) == expected


def test_every_executed_row_counts_when_nothing_is_known_about_execution():
    assert rows_counted(masks(flow_sde(), LAST, valid=None).sample) == ALL


@pytest.mark.parametrize("valid", [1, 2, 3, 4])
def test_valid_steps_counts_rows_from_the_start(valid):
    expected = [row < valid for row in range(4)]
    assert rows_counted(masks(flow_sde(), LAST, valid=valid).sample) == expected


@pytest.mark.parametrize("gripper", ["last_step", "bernoulli", "none"])
@pytest.mark.parametrize("pirl", [flow_sde, flow_noise])
def test_chunk_executed_by_a_human_has_no_policy_log_prob(pirl, gripper):
    recipe = pirl(gripper_mode=gripper)
    step = None if recipe.is_flow_noise else 1
    got = masks(recipe, step, human=1)
    assert not got.sample.any()
    assert not got.step.any()
    assert not got.gripper.any()
    assert masks(recipe, step, human=0).sample.any()


def test_hidden_gripper_counts_only_at_the_last_step():
    density = density_coordinates(a_spec(), flow_sde())
    assert not density[:LAST, :, 3].any()
    assert density[LAST, :4, 3].all()
    for mode in ("none", "bernoulli"):
        assert not density_coordinates(a_spec(), flow_sde(gripper_mode=mode))[..., 3].any()


def test_padded_dims_and_rows_beyond_the_executed_ones_never_count():
    density = density_coordinates(a_spec(), flow_sde())
    assert density[:, :4, :3].all()
    assert not density[:, 4:].any()
    assert not density[..., 4].any()


@pytest.mark.parametrize("gripper", ["last_step", "bernoulli", "none"])
@pytest.mark.parametrize("unused", [False, True])
def test_nothing_counts_that_was_not_noised(gripper, unused):
    pirl = flow_sde(gripper_mode=gripper, noise_on_unused=unused)
    density, noise = density_coordinates(a_spec(), pirl), noise_coordinates(a_spec(), pirl)
    assert not (density & ~noise).any()
    assert unused or torch.equal(density, noise)


@pytest.mark.parametrize("k", [0, LAST])
def test_bernoulli_gripper_counts_in_every_sample_on_executed_rows(k):
    got = masks(flow_sde(gripper_mode="bernoulli"), k)
    assert got.gripper[0, :, 3].tolist() == FIRST_TWO
    assert got.sample[0, 0, :, 3].tolist() == FIRST_TWO
    assert not got.step[..., 3].any()


def test_every_step_stochastic_counts_the_bernoulli_gripper_once():
    pirl = flow_sde(gripper_mode="bernoulli", sde={"stochastic_steps": "all"})
    assert masks(pirl, None).sample[0, :, 0, 3].tolist() == [False] * 4 + [True]


def test_joint_sample_of_flow_noise_is_the_union_of_its_steps():
    got = masks(flow_noise(), None)
    assert got.sample.shape == (1, 1, 4, 5)
    # Pose rows stay through the early steps; the gripper only has the last one.
    assert got.sample[0, 0, :, 0].tolist() == ALL
    assert got.sample[0, 0, :, 3].tolist() == FIRST_TWO
