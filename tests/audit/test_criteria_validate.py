"""What the criteria of validate-config make of records at the edge of what they accept."""

from __future__ import annotations

import json
import math

import pytest
from test_criteria import BY_NAME, change, change_line, keep_lines, set_to

from pirl.audit.criteria.validate import advantages, flow_sde_std, gaussian_log_prob
from pirl.audit.criterion import Verdict
from pirl.audit.judge import judge_criterion
from pirl.audit.records.files import VALIDATE
from pirl.audit.records.validate import GaeCase, GaussianCase, StdCase

PASSED, FAILED = Verdict.PASSED, Verdict.FAILED
NO_FIX = {"field_name": "a", "value": "1", "expected": "b", "fix": ""}


def judged(raw, name, *spoils):
    for spoil in spoils:
        spoil(raw.root)
    return judge_criterion(BY_NAME[f"validate/{name}"], raw)


def the_same_rule_twice(root):
    keep_lines(VALIDATE, "rules.jsonl", 15)(root)
    again = json.loads((root / "raw" / VALIDATE / "rules.jsonl").read_text().splitlines()[0])[
        "rule"
    ]
    change_line(VALIDATE, "rules.jsonl", set_to(rule=again))(root)


def canonical(**env):
    def spoil(root):
        path = root / "config" / "canonical.json"
        value = json.loads(path.read_text())
        value["env"] |= env
        path.write_text(json.dumps(value))

    return spoil


def profile(**changes):
    return change(VALIDATE, "profile.json", set_to(**changes))


def settings(**changes):
    return change(VALIDATE, "settings.json", set_to(**changes))


def look(**changes):
    return change(VALIDATE, "first_look.json", set_to(**changes))


def invalid(**changes):
    return change_line(VALIDATE, "invalid.jsonl", set_to(**changes))


def package(name, version):
    return change_line(VALIDATE, "packages.jsonl", set_to(package=name, version=version), 0)


def shared_states(root):
    def share(record):
        for sides in record["tasks"].values():
            sides["heldout"] = [0, 1, 45]

    change(VALIDATE, "split.json", share)(root)


EDGES = {
    "another config": ("config_hash_differs", canonical(task="other"), (FAILED, 1)),
    "one rule is broken": (
        "rules_failed", change_line(VALIDATE, "rules.jsonl", set_to(errors=["no"])), (FAILED, 1)),
    "just enough rules": ("rules_checked", keep_lines(VALIDATE, "rules.jsonl", 15), (PASSED, 15)),
    "one rule twice": ("rules_checked", the_same_rule_twice, (FAILED, 14)),
    "refused with another code": ("bad_configs_accepted", invalid(exit_code=1), (FAILED, 1)),
    "refused without a word": ("bad_configs_accepted", invalid(objections=[]), (FAILED, 1)),
    "refused without a fix": ("bad_configs_accepted", invalid(objections=[NO_FIX]), (FAILED, 1)),
    "refused without what is expected": (
        "bad_configs_accepted", invalid(objections=[NO_FIX | {"expected": "", "fix": "x"}]), (FAILED, 1)),
    "a clause that was not tried": (
        "contract_failed", change_line(VALIDATE, "contract.jsonl", set_to(status="not run")), (FAILED, 1)),
    "just enough clauses": ("contract_checked", keep_lines(VALIDATE, "contract.jsonl", 5), (PASSED, 5)),
    "one clause too few": ("contract_checked", keep_lines(VALIDATE, "contract.jsonl", 4), (FAILED, 4)),
    "an untried python": ("untried_versions", package("python", "3.13.0"), (FAILED, 1)),
    "a package nobody recorded": ("untried_versions", package("other", "1.0"), (FAILED, 1)),
    "no step was executed": ("env_ready", look(env_steps=0), (FAILED, False)),
    "one step was executed": ("env_ready", look(env_steps=1), (PASSED, True)),
    "a frame that shows a little": ("env_ready", look(frame_std=1.5), (PASSED, True)),
    "a frame that shows nothing": ("env_ready", look(frame_std=1.0), (FAILED, False)),
    "the config runs another environment": ("profile_inconsistent", canonical(type="libero"), (FAILED, 1)),
    "the config runs another suite": ("profile_inconsistent", canonical(task="other"), (FAILED, 1)),
    "the profile is of another environment": ("profile_inconsistent", profile(profile="libero"), (FAILED, 1)),
    "both are of another environment": (
        "profile_inconsistent", lambda root: [canonical(type="libero")(root), profile(env_type="libero")(root)],
        (FAILED, 1)),
    "no seed": ("settings_missing", settings(seed=None), (FAILED, 1)),
    "no mode and no noise": ("settings_missing", settings(mode="", noise={}), (FAILED, 2)),
    "no licence": (
        "inputs_missing", change(VALIDATE, "inputs.json", lambda r: r["checkpoint"].update(licence="")),
        (FAILED, 1)),
    "no task and no version": (
        "inputs_missing", change(VALIDATE, "inputs.json", lambda r: r["environment"].update(tasks=[], version="")),
        (FAILED, 2)),
    "two states on both sides": ("split_overlap", shared_states, (FAILED, 2)),
    "a check was off": ("checks_disabled", change(VALIDATE, "config.json", set_to(hooks=["parity"])), (FAILED, 1)),
}  # fmt: skip
"""Name of the criterion, spoil, (verdict, measured)."""


@pytest.mark.parametrize(("name", "spoil", "expected"), EDGES.values(), ids=EDGES)
def test_edge(raw, name, spoil, expected):
    result = judged(raw, name, spoil)
    assert (result.verdict, result.measured) == expected


DETAILS = {
    "config_hash_differs": "sha256 ",
    "rules_failed": "29 rules",
    "bad_configs_accepted": "8 refused",
    "contract_failed": "20 clauses",
    "analytic_max_error": "5 cases",
    "untried_versions": "python 3.12.",
    "env_ready": "20 steps, std of the frame 41.5 of 255",
    "profile_inconsistent": "profile embedded, env.type pirl_metaworld, env.task button-press-topdown-v3",
    "settings_missing": "18 settings",
    "inputs_missing": "1 tasks",
    "split_overlap": "1 tasks",
}


@pytest.mark.parametrize("name", DETAILS)
def test_what_was_looked_at_is_told(raw, name):
    result = judged(raw, name)
    assert result.verdict is PASSED
    assert result.detail.startswith(DETAILS[name])


def test_a_package_that_is_not_there_is_named(raw):
    assert judged(raw, "untried_versions", package("other", "1")).detail == "python not recorded"


@pytest.mark.parametrize(
    ("file", "changes", "error"),
    [
        ("analytic-gaussian.jsonl", {"log_prob": 10.0}, None),
        ("analytic-std.jsonl", {"std": [0.5, 0.25, 0.5, 0.5, 0.5]}, None),
        ("analytic-gae.jsonl", {"advantages": [0.0, 0.0]}, None),
        ("analytic-std.jsonl", {"std": [0.5]}, "1 values where 10 are expected"),
        ("analytic-std.jsonl", {"std": [], "denoising_steps": 0}, "0 values where 0 are expected"),
    ],
)
def test_numbers_that_are_not_those_of_the_closed_forms_fail(raw, file, changes, error):
    result = judged(raw, "analytic_max_error", change_line(VALIDATE, file, set_to(**changes)))
    assert result.verdict is FAILED
    assert error is None or error in result.detail


def test_an_error_is_absolute_below_one_and_relative_above(raw):
    """The second std is 0.447; the density of a sample 1,000 stds away is about -5e5."""
    stds = [0.5, 1.0, *flow_sde_std(StdCase(denoising_steps=5, noise_level=0.5, std=()))[2:]]
    wrong = change_line(VALIDATE, "analytic-std.jsonl", set_to(std=stds), 1)
    assert judged(raw, "analytic_max_error", wrong).measured == pytest.approx(1 - 0.4472136)
    stds[1] = 0.5 * math.sqrt(4 / 5)
    right = change_line(VALIDATE, "analytic-std.jsonl", set_to(std=stds), 1)
    far = set_to(x=[100.0], mean=[0.0], std=[0.1], log_prob=-5e5)
    large = change_line(VALIDATE, "analytic-gaussian.jsonl", far)
    gap = 0.5 * math.log(2 * math.pi) + math.log(0.1)
    assert judged(raw, "analytic_max_error", right, large).measured == pytest.approx(
        abs(gap) / 5e5, rel=1e-4
    )


def test_density_by_hand():
    """N(1; 0, 2) and N(0; 0, 1): -1/8 - ln 2 - ln(2 pi)."""
    case = GaussianCase(x=(1.0, 0.0), mean=(0.0, 0.0), std=(2.0, 1.0), log_prob=0.0)
    assert gaussian_log_prob(case) == pytest.approx(-0.125 - math.log(2) - math.log(2 * math.pi))


def test_advantages_by_hand():
    """gamma 0.5, lambda 0.5: a terminal step, one before it, and one that was cut off before both."""
    case = GaeCase(
        gamma=0.5, gae_lambda=0.5, rewards=(1.0, 2.0, 4.0), values=(0.5, 0.25, 1.0),
        next_values=(8.0, 1.0, 16.0), done=(False, False, True), truncated=(True, False, False),
        advantages=(),
    )  # fmt: skip
    last = 4.0 - 1.0
    before = 2.0 + 0.5 * 1.0 - 0.25 + 0.25 * last
    cut_off = 1.0 + 0.5 * 8.0 - 0.5
    assert advantages(case) == [cut_off, before, last]


def test_std_of_flow_sde_by_hand():
    """K = 4, level 0.8: the level itself first, then level * sqrt((K - k) / (k K))."""
    case = StdCase(denoising_steps=4, noise_level=0.8, std=())
    assert flow_sde_std(case) == pytest.approx(
        [0.8, 0.8 * math.sqrt(3 / 4), 0.8 * math.sqrt(2 / 8), 0.8 * math.sqrt(1 / 12)]
    )
