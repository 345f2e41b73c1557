"""The metric table and its rows."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from pirl.errors import EvidenceError
from pirl.journal import metrics
from pirl.journal.metric_log import MetricLog, read_json_lines, read_metrics

DOCS = Path(__file__).parents[3] / "docs"


def test_documentation_is_the_table():
    assert (DOCS / "metrics.md").read_text(encoding="utf-8") == metrics.render_markdown()


def test_every_name_is_group_slash_snake_case_with_a_unit_and_a_meaning():
    for name, metric in metrics.METRICS.items():
        group, leaf = name.split("/")
        assert group.isalpha()
        assert group.islower()
        assert leaf.replace("_", "").isalnum()
        assert leaf == leaf.lower()
        assert metric.unit
        assert metric.meaning
        assert metric.low <= metric.high


def test_table_has_no_repeated_row():
    assert len(metrics.METRICS) == len(metrics._ROWS)


@pytest.mark.parametrize("name", ["time/update_s", "link/bytes_sent", "system/rss_mib"])
def test_values_of_the_machine_are_not_compared_on_resume(name):
    assert not metrics.lookup(name).is_deterministic


@pytest.mark.parametrize("name", ["update/policy_loss", "counters/sent", "rollout/successes"])
def test_values_of_the_run_are_compared_on_resume(name):
    assert metrics.lookup(name).is_deterministic


def test_unknown_metric_is_refused_with_the_file_to_edit():
    with pytest.raises(EvidenceError, match="pirl/journal/metrics"):
        metrics.lookup("update/polcy_loss")


def test_row_round_trip_keeps_every_bit_and_values_that_are_not_finite(tmp_path):
    values = {
        "update/policy_loss": 0.1 + 0.2,
        "update/approx_kl": math.nan,
        "update/ratio_max": math.inf,
    }
    with MetricLog(tmp_path / "m.jsonl") as log:
        log.write_row(1, version=1, metrics=values)
    row = read_metrics(tmp_path / "m.jsonl")[0]
    assert (row.step, row.version) == (1, 1)
    assert row.metrics["update/policy_loss"] == 0.1 + 0.2
    assert math.isnan(row.metrics["update/approx_kl"])
    assert row.metrics["update/ratio_max"] == math.inf


def test_row_is_on_disk_before_the_log_is_closed(tmp_path):
    log = MetricLog(tmp_path / "m.jsonl")
    log.write_row(1, version=0, metrics={"counters/sent": 3})
    assert len(read_metrics(tmp_path / "m.jsonl")) == 1
    log.close()


def test_file_is_strict_json_per_line(tmp_path):
    with MetricLog(tmp_path / "m.jsonl") as log:
        log.write_row(1, version=0, metrics={"update/policy_loss": math.nan})

    def refuse(token):
        raise AssertionError(token)

    for line in (tmp_path / "m.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)


def test_unknown_name_is_refused_before_anything_is_written(tmp_path):
    with MetricLog(tmp_path / "m.jsonl") as log, pytest.raises(EvidenceError):
        log.write_row(1, version=0, metrics={"loss": 1.0})
    assert (tmp_path / "m.jsonl").read_text() == ""


def test_torn_tail_is_refused_unless_the_process_was_killed_on_purpose(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"a":1}\n{"b":')
    with pytest.raises(EvidenceError, match="torn"):
        read_json_lines(path)
    assert read_json_lines(path, allow_torn_tail=True) == [{"a": 1}]


def test_log_moves_a_torn_line_away_before_it_appends(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"a":1}\n{"a":')
    with MetricLog(path) as log:
        log.write_row(1, version=0, metrics={"update/policy_loss": 1.0})
    assert len(read_json_lines(path)) == 2
    (aside,) = tmp_path.glob("m.torn-*.jsonl")
    assert aside.read_text() == '{"a":\n'


@pytest.mark.parametrize(
    "line",
    [
        '{"format":2,"step":1,"version":0,"elapsed_s":0,"metrics":{}}',
        '{"format":1,"step":1,"version":0,"elapsed_s":0,"metrics":{"update/policy_loss":"big"}}',
        '{"format":1,"step":1,"version":0,"elapsed_s":0,"metrics":{"update/policy_loss":true}}',
        '{"format":1,"step":1,"version":0,"elapsed_s":0,"metrics":{"nobody/knows":1}}',
        '{"format":1,"step":1,"elapsed_s":0,"metrics":{}}',
        "[1]",
        "nonsense",
    ],
)
def test_malformed_row_is_refused(tmp_path, line):
    path = tmp_path / "m.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(EvidenceError):
        read_metrics(path)
