"""What a criterion makes of records at the edge of what it accepts, one edge each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping

import pytest
from bundle_builder import UPDATES
from test_criteria import BY_NAME, change, change_line, set_metric, set_to

from pirl.audit.criteria.learning import MUST_BE_FINITE, is_of
from pirl.audit.criteria.mismatch import case_problems
from pirl.audit.criterion import Verdict
from pirl.audit.judge import judge_criterion, judge_gate
from pirl.audit.raw import RawRecords
from pirl.audit.records import files, smoke, validate
from pirl.audit.records.files import MISMATCH, RESUME, SMOKE, VALIDATE
from pirl.journal import media
from pirl.journal.codec import hints
from pirl.journal.media import Clip

PASSED, FAILED, NOT_RUN = Verdict.PASSED, Verdict.FAILED, Verdict.NOT_RUN


def judged(raw, name, *spoils):
    for spoil in spoils:
        spoil(raw.root)
    return judge_criterion(BY_NAME[name], raw)


def actors(**changes):
    return change(SMOKE, "counters-actor-0.json", set_to(**changes))


def learner(**changes):
    return change(SMOKE, "counters-learner.json", set_to(**changes))


def without_metric(name):
    return change_line(SMOKE, "metrics-learner.jsonl", lambda row: row["metrics"].pop(name))


def metric(name, value, index):
    return change_line(SMOKE, "metrics-learner.jsonl", set_metric(name, value), index)


def another_name(record):
    record["after"]["trained"]["other"] = "0" * 64


def a_field_that_nobody_has(record):
    for side in ("learner", "received", "actor"):
        record[side].pop("recipe")


def two_actors_in_one_process(root):
    change(VALIDATE, "settings.json", set_to(actors=2))(root)
    path = root / "raw" / SMOKE / "processes.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows.append(rows[-1] | {"role": "actor-1"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def nobody_met(root):
    """Two actors, and no handshake of either; a third met the learner."""
    folder = root / "raw" / SMOKE
    for rank in (1, 2):
        shutil.copy(folder / "counters-actor-0.json", folder / f"counters-actor-{rank}.json")
    (folder / "handshake-0.json").rename(folder / "handshake-2.json")


def an_older_row_again(root):
    """The resumed run also wrote an update that its checkpoint holds; the row before counts."""
    path = root / "raw" / RESUME / "metrics-resumed.jsonl"
    first, *rest = path.read_text().splitlines(keepends=True)
    row = json.loads(first)
    row["step"] = row["version"] = 2
    row["metrics"]["update/policy_loss"] = 77.0
    path.write_text(json.dumps(row) + "\n" + first + "".join(rest))


def four_values_differ(root):
    for name in ("policy_loss", "value_loss", "approx_kl", "grad_norm_actor"):
        change_line(RESUME, "metrics-resumed.jsonl", set_metric(f"update/{name}", 55.0))(root)


EDGES = {
    "a metric that is missing": ("smoke/kl_largest", without_metric("update/approx_kl"), (NOT_RUN, None)),
    "a row in the middle is not a number": (
        "smoke/non_finite", metric("update/kl_first", "NaN", 1), (FAILED, 1)),
    "the ratio moved on one side only": (
        "smoke/ratio_moved", metric("update/ratio_max", 1.0, 1), (PASSED, abs(0.8 - 1))),
    "the worst is not the last": ("smoke/kl_first", metric("update/kl_first", -0.5, 0), (FAILED, 0.5)),
    "tensors have other names": (
        "smoke/trained_unchanged", change(SMOKE, "tensors.json", another_name), (FAILED, None)),
    "one episode more than counted": (
        "smoke/success_count_gap", metric("rollout/episodes", 9.0, 0), (FAILED, 1)),
    "published versions do not rise": ("smoke/versions_published", learner(published=[0, 2, 1]), (FAILED, None)),
    "decisions by version do not add up": (
        "smoke/versions_acted", actors(by_version={"0": 1, "1": 1, "2": 1}), (FAILED, None)),
    "a version nobody acted with": (
        "smoke/versions_acted",
        change(SMOKE, "counters-actor-0.json", lambda r: r.update(by_version={"0": r["sent"], "1": 0})),
        (FAILED, 1)),
    "a lost episode is counted on both ways": (
        "smoke/episodes_unaccounted", learner(episodes_received=39), (FAILED, 2)),
    "an episode that no update used": (
        "smoke/episodes_unaccounted",
        change_line(SMOKE, "episodes.jsonl", set_to(end="interrupted", reward=None, update=None)), (FAILED, 1)),
    "hooks of a process are unknown": (
        "smoke/checks_disabled", change_line(SMOKE, "processes.jsonl", set_to(hooks=None)), (FAILED, 1)),
    "the start of a process is unknown": (
        "smoke/processes", change_line(SMOKE, "processes.jsonl", set_to(started_s=None)), (FAILED, 0)),
    "one process for two actors": ("smoke/processes", two_actors_in_one_process, (FAILED, 0)),
    "two actors never met": ("smoke/handshakes_missing", nobody_met, (FAILED, 2)),
    "the actor said nothing": (
        "smoke/handshakes_missing", change(SMOKE, "handshake-0.json", set_to(actor={})), (FAILED, 1)),
    "a field that no side has": (
        "smoke/handshake_fields_differ", change(SMOKE, "handshake-0.json", a_field_that_nobody_has), (FAILED, 1)),
    "one decision and one step are enough": (
        "mismatch/control_accepted", change(MISMATCH, "control.json", set_to(decisions=1, optimiser_steps=1)),
        (PASSED, True)),
    "refused with the code for a machine that is not ready": (
        "mismatch/wrong_exit_code", change_line(MISMATCH, "cases.jsonl", set_to(exit_code=3)), (FAILED, 1)),
    "refused as a wrong config": (
        "mismatch/wrong_exit_code", change_line(MISMATCH, "cases.jsonl", set_to(exit_code=2)), (PASSED, 0)),
    "a client where a process is asked for": (
        "mismatch/classes_missing", change_line(MISMATCH, "cases.jsonl", set_to(probe="client"), 0), (FAILED, 1)),
    "the control was still running": (
        "mismatch/control_accepted", change(MISMATCH, "control.json", set_to(elapsed_s=1e6)), (FAILED, False)),
    "killed in the update after its save": (
        "resume/not_killed", change(RESUME, "kill.json", set_to(killed_after_update=2)), (PASSED, 0)),
    "killed before the save": (
        "resume/not_killed", change(RESUME, "kill.json", set_to(killed_after_update=1)), (FAILED, 1)),
    "on the last second": (
        "resume/deadline_missed", change(RESUME, "kill.json", set_to(resume_elapsed_s=120.0)), (PASSED, 0)),
    "a row that the checkpoint holds": ("resume/metrics_differ", an_older_row_again, (PASSED, 0)),
}  # fmt: skip
"""Name of the criterion, spoil, (verdict, measured)."""


@pytest.mark.parametrize(("name", "spoil", "expected"), EDGES.values(), ids=EDGES)
def test_edge(raw, name, spoil, expected):
    result = judged(raw, name, spoil)
    assert (result.verdict, result.measured) == expected


@pytest.mark.parametrize("index", [0, 1, 2])
def test_the_largest_of_values_that_are_no_numbers_is_none(raw, index):
    assert judged(raw, "smoke/kl_first", metric("update/kl_first", "NaN", index)).verdict is FAILED


def test_values_that_were_looked_at_are_counted(raw):
    assert judged(raw, "smoke/non_finite").detail == f"{UPDATES * len(MUST_BE_FINITE)} values"


def test_what_an_actor_and_the_host_counted_of_a_case_adds_up(raw):
    change(MISMATCH, "host.json", set_to(decisions=1))(raw.root)
    change_line(MISMATCH, "cases.jsonl", set_to(decisions=1))(raw.root)
    assert judged(raw, "mismatch/accepted_transitions").measured == 2


def test_a_case_that_counted_itself_is_not_judged_by_the_host(raw):
    change(MISMATCH, "host.json", set_to(decisions=1, optimiser_steps=1))(raw.root)
    change_line(MISMATCH, "cases.jsonl", set_to(decisions=0, optimiser_steps=0), 0)(raw.root)
    change_line(MISMATCH, "cases.jsonl", set_to(decisions=None, optimiser_steps=None), 1)(raw.root)
    host = raw.one(files.HOST)
    counted, uncounted, *_ = raw.all(files.CASES)
    assert case_problems(counted, host) == []
    assert case_problems(uncounted, host) == ["transitions", "optimiser steps"]


def test_no_more_than_three_names_are_shown(raw):
    change(RESUME, "stock.json", set_to(missing_keys=["a", "b"], unexpected_keys=["c", "d"]))(
        raw.root
    )
    keys = judged(raw, "resume/stock_keys_differ")
    assert (keys.measured, keys.detail) == (4, "a, b, c")
    values = judged(raw, "resume/metrics_differ", four_values_differ)
    assert (values.measured, values.detail.count(" at ")) == (4, 3)


def test_a_process_that_wrote_nothing_is_named(raw):
    change_line(SMOKE, "processes.jsonl", set_to(hooks=None))(raw.root)
    assert judged(raw, "smoke/checks_disabled").detail == "actor-0 wrote nothing"


def test_episodes_that_were_given_up_are_told(raw):
    given_up = set_to(end="interrupted", reward=None, update=None)
    change_line(SMOKE, "episodes.jsonl", given_up)(raw.root)
    assert judged(raw, "smoke/broken_off").detail == "40 episodes, 1 given up at the end"


def test_two_frames_are_a_video(raw, monkeypatch):
    change(SMOKE, "video.json", set_to(frames=2))(raw.root)
    said = raw.one(files.VIDEO)
    clip = Clip(width=said.width, height=said.height, frames=2, spread=40.0)
    monkeypatch.setattr(media, "inspect_video", lambda _: clip)
    assert judged(raw, "smoke/video_shown").verdict is PASSED


def test_an_environment_is_of_a_suite_that_it_begins_with():
    assert not is_of(", limit 95", "libero/libero_10")


def test_a_criterion_without_a_threshold_of_its_own_on_the_gpu_keeps_the_other():
    criterion = BY_NAME["smoke/updates"]
    assert criterion.threshold_for("cuda/float32") == criterion.threshold == 2


def test_the_verdict_is_about_the_recorded_variant_config_and_numerics(raw):
    change(VALIDATE, "settings.json", set_to(numerics="cuda/float32"))(raw.root)
    verdict = judge_gate(raw)
    config = raw.one(files.CONFIG)
    assert (verdict.variant, verdict.config_path) == (config.variant, config.path)
    (parity,) = (r for r in verdict.results[SMOKE] if r.name == "smoke/parity_max_abs")
    assert (verdict.numerics, parity.threshold) == ("cuda/float32", 0.1)


def test_every_task_is_counted_by_itself(libero_bundle):
    shown = [outcome.to_json() for outcome in judge_gate(RawRecords(libero_bundle)).episodes]
    assert [(o["successes"], o["episodes"]) for o in shown] == [(25, 40), (14, 20), (11, 20)]
    assert shown[0]["wilson_95"] == [0.4703, 0.7578]


def test_types_of_a_record_are_those_of_its_page():
    assert hints(smoke.Handshake)["learner"] == smoke.Claims
    assert hints(validate.Settings)["noise"] == Mapping[str, validate.Scalar | tuple[float, ...]]
