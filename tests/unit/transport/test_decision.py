"""The table of decision fields: what documents say of it, what it gives for a recipe, who spells a name."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transport_builders import a_spec, flow_noise, flow_sde, some_inputs

from pirl import decision
from pirl.config.recipe import FlowSDEConfig
from pirl.decision import FIELDS, decision_fields
from pirl.errors import ContractError
from pirl.transport.schema import transition_schema

ROOT = Path(__file__).parents[3]


def row_of(field):
    shape = ", ".join(["1", *field.shape.split()])
    bounds = f"{field.low} .. {field.high}" if field.low else "any"
    dtype = str(field.dtype).removeprefix("torch.")
    return f"| `{field.name}` | [{shape}] | {dtype} | {bounds} | {field.writer} | {field.told} |"


def test_the_envelope_page_has_the_table():
    page = (ROOT / "docs" / "envelope.md").read_text(encoding="utf-8").splitlines()
    stated = [line for line in page if re.match(r"\| `(pirl_|is_)\w+` \|", line)]
    assert stated == [row_of(field) for field in FIELDS]


def test_no_other_module_of_pirl_spells_a_field():
    names = {field.name for field in FIELDS}
    spelt = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in (ROOT / "pirl").rglob("*.py")
        if path.name != "decision.py"
        for name in names
        if f'"{name}"' in path.read_text(encoding="utf-8")
    }
    # The version beside the parameters is a key of another message.
    assert spelt == {"pirl/transport/identity.py: pirl_version"}


def test_sizes_and_bounds_are_those_of_policy_and_reward():
    spec = a_spec()
    found = decision_fields(spec, flow_sde(), max_step_reward=1.5)
    steps = found[decision.STEP_REWARDS]
    assert (steps.shape, steps.low, steps.high) == ((1, spec.executed_steps), -1.5, 1.5)
    assert found[decision.VALID_STEPS].high == spec.executed_steps
    assert found[decision.DENOISE_INDEX].high == spec.denoising_steps - 1
    assert found[decision.VERSION].high == 2**62
    assert found[decision.LOG_PROB_MASK].low is None
    assert found[decision.LOG_PROB].shape == (1, spec.executed_steps, spec.model_dim)


def names_of(pirl):
    return decision_fields(a_spec(), pirl, max_step_reward=1.0).keys()


def test_each_recipe_has_the_fields_of_its_sampler():
    always = {field.name for field in FIELDS if field.told == "always"}
    one_step = {decision.DENOISE_INDEX, decision.NOISE, decision.X_K, decision.X_NEXT}
    everything = replace(flow_sde(), flow_sde=FlowSDEConfig(stochastic_steps="all"))
    assert names_of(flow_sde()) == always | one_step
    assert names_of(everything) == always | {decision.CHAIN, decision.CARRIED}
    assert names_of(replace(everything, base_sampler="euler")) == always | {decision.CHAIN}
    assert names_of(flow_noise()) == always | {decision.CHAIN, decision.LOG_PROB_LAST}
    gripper = replace(flow_sde(), gripper_mode="bernoulli")
    assert names_of(gripper) == always | one_step | {decision.GRIPPER, decision.X_LAST}
    samples = decision_fields(a_spec(), everything, max_step_reward=1.0)[decision.LOG_PROB]
    assert samples.shape[1] == a_spec().denoising_steps
    assert samples.dtype == torch.float32


def test_an_input_of_the_policy_that_takes_a_fields_name_is_refused():
    taken = {"version": some_inputs()["domain_id"]}
    with pytest.raises(ContractError, match="pirl_version"):
        transition_schema(
            a_spec(), flow_sde(), image_shapes={}, state_dim=2, inputs=taken, max_step_reward=1.0
        )
