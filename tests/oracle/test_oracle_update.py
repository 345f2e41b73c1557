"""pirl's update against the oracle's: every knob by itself, then recipes drawn at random."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import HealthCheck, given, settings
from oracle_cases import CASES, NOT_COMPARED
from oracle_compare import compare
from oracle_draws import cases

from pirl.config.recipe import FlowNoiseConfig, FlowSDEConfig, PiRLConfig


@pytest.mark.parametrize("name", CASES)
def test_an_update_is_the_oracles(name):
    compare(CASES[name])


# Derandomised: the same recipes on every machine, so that the time and the verdict are stable.
@settings(
    max_examples=40,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(case=cases())
def test_updates_of_random_recipes_are_the_oracles(case):
    compare(case)


def test_every_knob_has_a_case_or_a_reason_why_not():
    knobs = {f.name for f in fields(PiRLConfig)} - {"flow_sde", "flow_noise"}
    knobs |= {f"flow_sde__{f.name}" for f in fields(FlowSDEConfig)}
    knobs |= {f"flow_noise__{f.name}" for f in fields(FlowNoiseConfig)}
    compared = {knob for case in CASES.values() for knob in case.knobs}
    assert knobs == compared | set(NOT_COMPARED)
    assert not compared & set(NOT_COMPARED)
