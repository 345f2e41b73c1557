"""What the reports say, of facts written down here: words, numbers, order and what is left out."""

from __future__ import annotations

import json

import pytest

from pirl.audit.records.files import STEPS
from pirl.audit.report import (
    ReportData,
    escaped,
    read_report_data,
    render_markdown,
    show_outcome,
    show_requirement,
    show_value,
)

OUTCOME = {
    "task": "press", "successes": 1, "episodes": 4, "timeouts": 2, "errors": 1, "interrupted": 3,
    "initial_states": [0, 5],
}  # fmt: skip


@pytest.fixture
def said(good_bundle):
    """The facts of a good bundle."""
    return read_report_data(good_bundle.folder)


def other(data: ReportData, part: str, **changes) -> ReportData:
    """The same facts, but for some of one file."""
    parts = {name: getattr(data, name) for name in ReportData.__slots__}
    return ReportData(**parts | {part: {**parts[part], **changes}})


def a_criterion(name: str, verdict: str = "passed", **changes):
    facts = {
        "name": name, "verdict": verdict, "measured": 3, "comparator": "<=", "threshold": 0.001,
        "unit": "nats", "detail": "3 < 4",
    }  # fmt: skip
    return facts | changes


@pytest.mark.parametrize(
    ("label", "headline"),
    [
        ("passed (fallback: embedded)", "PASSED (fallback: embedded)"),
        ("passed", "PASSED"),
        ("not run", "NOT RUN"),
    ],
)
def test_the_headline_is_the_verdict_and_keeps_what_stands_in_brackets(said, label, headline):
    assert other(said, "verdict", label=label).headline == headline


def test_facts_say_what_the_tree_held(said):
    changed = {"git_dirty": True, "git_commit": "a" * 40, "patch_sha256": "b" * 64}
    dirty = other(said, "source", **changed)
    assert dict(dirty.facts)["Code"] == "aaaaaaaaaaaa (dirty, patch bbbbbbbbbbbb)"
    clean = other(said, "source", **changed | {"git_dirty": False})
    assert dict(clean.facts)["Code"] == "aaaaaaaaaaaa (clean)"


def test_facts_say_who_signed(said):
    assert dict(other(said, "run", signed_by="").facts)["Signed"].startswith("no; ")
    signed = dict(other(said, "run", signed_by="k" * 64).facts)["Signed"]
    assert signed.startswith("by the key kkkkkkkkkkkk; ")


def test_facts_give_the_reason_of_a_profile_where_there_is_one(said):
    verdict = {"profile": "embedded", "profile_reason": "no assets"}
    assert dict(other(said, "verdict", **verdict).facts)["Profile"] == "embedded (no assets)"
    verdict["profile_reason"] = ""
    assert dict(other(said, "verdict", **verdict).facts)["Profile"] == "embedded"


def test_reward_is_counted_over_tasks_and_its_absence_is_said(said):
    outcomes = [OUTCOME, OUTCOME | {"successes": 2, "episodes": 6}]
    assert dict(other(said, "verdict", episodes=outcomes).facts)["Reward"] == (
        "3 of 10 episodes succeeded"
    )
    assert dict(other(said, "verdict", episodes=[OUTCOME | {"successes": 0}]).facts)["Reward"] == (
        "0 of 4 episodes succeeded; no success was seen"
    )


def test_a_step_that_ended_early_says_why(said):
    first, second, third, _ = STEPS
    steps = {
        first: {"stopped_by": "interrupt", "error": None},
        second: {"stopped_by": "error", "error": "no simulator"},
        third: {"stopped_by": None, "error": "never shown"},
    }
    assert other(said, "run", steps=steps).ended_early == [
        (first, "interrupt"),
        (second, "no simulator"),
    ]


def test_what_did_not_pass_is_counted_and_listed(said):
    first, *rest = STEPS
    verdicts = ("passed", "failed", "not run", "passed", "passed", "not run")
    criteria = [a_criterion(f"a/{i}", verdict) for i, verdict in enumerate(verdicts)]
    data = other(said, "criteria", **{first: criteria, **{step: [] for step in rest}})
    assert data.counts(first) == (3, 1, 2)
    assert [c["name"] for c in data.open_items] == ["a/1", "a/2", "a/5"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (True, "yes"),
        (False, "no"),
        (0, "0"),
        (0.000123456789, "0.000123457"),
        (float("inf"), "inf"),
        ("text", "text"),
    ],
)
def test_values_are_short_and_never_empty(value, shown):
    assert show_value(value) == shown


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({}, "<= 0.001 nats"),
        ({"unit": ""}, "<= 0.001"),
        ({"comparator": "is true", "threshold": True, "unit": ""}, "yes"),
    ],
)
def test_a_requirement_is_comparator_threshold_and_unit(changes, shown):
    assert show_requirement(a_criterion("a/b", **changes)) == shown


def test_an_outcome_has_its_counts_and_what_became_of_the_failures():
    shown = show_outcome(OUTCOME)
    assert shown.startswith("press: 1/4 (")
    assert shown.endswith("; 2 time-outs, 1 simulator errors, 3 interrupted; 2 initial states")


def test_records_cannot_write_markup():
    assert escaped("a|b *c*\n <i>&") == "a\\|b \\*c\\* &lt;i&gt;&amp;"


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def sections(text: str) -> dict[str, list[str]]:
    """Lines that are not empty by heading."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            found[line] = []
        elif line:
            found[list(found)[-1]].append(line)
    return found


def test_the_page_has_every_criterion_of_a_step_once_two_in_a_row(bundle):
    first = STEPS[0]
    criteria = [
        a_criterion("a/one"),
        a_criterion("a/two", "failed", detail="it | broke"),
        a_criterion("a/three", "not run", measured=None),
    ]
    edit(bundle / "criteria" / f"{first}.json", criteria=criteria)
    page = sections(render_markdown(bundle))
    assert page[f"## {first}"] == [
        "|  | criterion | measured | required |  | criterion | measured | required |",
        "|---|---|---|---|---|---|---|---|",
        "| PASS | one | 3 | &lt;= 0.001 nats | NOT RUN | three | - | &lt;= 0.001 nats |",
        "| FAIL | two | 3 | &lt;= 0.001 nats |  |  |  |  |",
    ]
    assert page["## Not passed"] == [
        "| criterion | verdict | measured | required | detail |",
        "|---|---|---|---|---|",
        "| a/two | FAIL | 3 | &lt;= 0.001 nats | it \\| broke |",
        "| a/three | NOT RUN | - | &lt;= 0.001 nats | 3 &lt; 4 |",
    ]
    top = next(lines for heading, lines in page.items() if heading.startswith("# "))
    assert "|---|---|---|---|---|" in top
    assert next(line for line in top if line.startswith(f"| {first} |")).endswith("| 1 | 1 | 1 |")


def test_the_page_of_a_gate_that_passed_lists_nothing_as_open(bundle):
    page = sections(render_markdown(bundle))
    assert "## Not passed" not in page
    assert list(page)[1:] == [
        *(f"## {step}" for step in STEPS),
        "## Episodes",
        "## Not tested",
        "## Check it",
    ]
    verdict = json.loads((bundle / "verdict.json").read_text())
    outcomes = [f"- {escaped(show_outcome(outcome))}" for outcome in verdict["episodes"]]
    assert outcomes
    assert page["## Episodes"] == [verdict["non_claim"], *outcomes]
    assert page["## Not tested"] == [f"- {limit}" for limit in verdict["limits"]]


def test_the_page_says_which_step_ended_early_and_that_no_episode_was_seen(bundle):
    run = bundle / "metadata" / "run.json"
    steps = json.loads(run.read_text())["steps"]
    edit(run, steps=steps | {STEPS[1]: steps[STEPS[1]] | {"stopped_by": "x", "error": "a|b"}})
    edit(bundle / "verdict.json", episodes=[])
    text = render_markdown(bundle)
    assert f"**{STEPS[1]} ended early**, and no further step started: a\\|b" in text
    assert sections(text)["## Episodes"][1:] == ["- none"]
