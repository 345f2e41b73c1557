"""The tables in the documentation are those of the committed records; verdicts follow from their counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pirl.envs.libero_expert import EXPERTS
from pirl.journal.stats import wilson_interval
from pirl.learning.settings import PARAMS, read_settings
from pirl.learning.study import row_settings, study_rows, table

REPO = Path(__file__).parents[3]
RECORDS = sorted((REPO / "reports" / "studies").glob("*.json"))
ELSEWHERE = {"second_policy": Path("examples/second_policy/learning.yaml")}
"""Settings files of studies that need what pirl itself does not bring."""


def settings_file(name):
    return REPO / ELSEWHERE.get(name, PARAMS)


@pytest.fixture(params=RECORDS, ids=lambda path: path.stem)
def study(request):
    return request.param.stem, json.loads(request.param.read_text(encoding="utf-8"))


def test_documentation_shows_the_table_of_the_records(study):
    name, records = study
    text = (REPO / "docs" / "learning.md").read_text(encoding="utf-8")
    shown = text.split(f"<!-- study {name} -->\n")[1].split("<!-- /study -->")[0]
    assert shown == table(records)


def test_documentation_shows_the_counts_of_libero_s_experts():
    lines = (REPO / "reports" / "libero_experts.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    text = (REPO / "docs" / "learning.md").read_text(encoding="utf-8")
    shown = text.split("<!-- libero experts -->\n")[1].split("<!-- /libero experts -->")[0]
    for row in rows:
        steps = ", ".join(map(str, row["steps"]))
        line = f"| {row['task']} | {row['successes']}/{row['episodes']} | {steps} |"
        assert line in shown.splitlines()
    assert len(shown.splitlines()) == len(rows) + 2
    assert all(row["task"] in EXPERTS for row in rows)
    assert all(row["successes"] + len(row["failed"]) == row["episodes"] == 50 for row in rows)


def test_rows_are_those_of_the_settings(study):
    name, records = study
    rows = study_rows(name, settings_file(name))
    assert [record["label"] for record in records] == list(rows)
    for record in records:
        settings = row_settings(rows[record["label"]], read_settings(settings_file(name)))
        if "stopped" not in record:
            assert (record["variant"], record["seed"]) == (settings.variant, settings.seed)


def test_verdicts_follow_from_the_counts(study):
    name, records = study
    rows = study_rows(name, settings_file(name))
    for record in records:
        if "stopped" in record:
            continue
        bounds = row_settings(rows[record["label"]], read_settings(settings_file(name))).bounds
        first, last = record["points"][0], record["points"][-1]
        start, end = (p["successes"] / p["episodes"] for p in (first, last))
        if record["control"]:
            passed = round(end - start, 9) <= bounds.control_gain
        else:
            misled = record.get("misled", {})
            told_another = sum(c["successes"] for c in misled.values()) / max(
                1, sum(c["episodes"] for c in misled.values())
            )
            passed = (
                bounds.start_low <= start <= bounds.start_high
                and end >= bounds.end
                and last["env_steps"] <= bounds.env_steps
                and min(first["episodes"], last["episodes"]) >= 100
                and (bounds.misled is None or told_another <= bounds.misled)
            )
        assert record["passed"] == passed, record["label"]


def test_the_second_policy_gains_more_than_chance_and_its_control_nothing():
    records = json.loads((REPO / "reports" / "studies" / "second_policy.json").read_text())
    learned = [record for record in records if record["control"] is None]
    (control,) = (record for record in records if record["control"] == "zero-rate")
    assert learned
    for record in learned:
        first, last = record["points"][0], record["points"][-1]
        for point in (first, last):
            low, high = wilson_interval(point["successes"], point["episodes"])
            assert point["interval_95"] == [round(low, 4), round(high, 4)]
        assert first["interval_95"][1] < last["interval_95"][0]
        assert last["successes"] - first["successes"] >= 0.2 * last["episodes"]
        if record["seed"] == control["seed"]:
            assert control["points"][0]["successes"] == first["successes"]
    # Weights that do not move meet the same episodes again: the counts are equal and not merely alike.
    assert len({point["successes"] for point in control["points"]}) == 1
