"""Every criterion dies when the thing it guards is broken, and never passes on nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pirl.evidence import measure_mismatch, measure_resume
from pirl.evidence.criteria import Verdict
from pirl.evidence.judge import judge_criterion, judge_gate, recompute_function
from pirl.evidence.policy import CRITERIA
from pirl.evidence.raw import RawRecords

BY_NAME = {criterion.name: criterion for criterion in CRITERIA}


def change(name, edit):
    """A spoil: apply `edit` to the object in raw/<name>."""

    def spoil(root: Path):
        path = root / "raw" / name
        value = json.loads(path.read_text())
        edit(value)
        path.write_text(json.dumps(value))

    return spoil


def change_line(name, edit, index=-1):
    """A spoil: apply `edit` to one line of raw/<name>."""

    def spoil(root: Path):
        path = root / "raw" / name
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        edit(lines[index])
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    return spoil


def set_to(**values):
    return lambda record: record.update(values)


def set_metric(name, value):
    return lambda row: row["metrics"].update({name: value})


def drop_line(name, index):
    def spoil(root: Path):
        path = root / "raw" / name
        lines = path.read_text().splitlines(keepends=True)
        del lines[index]
        path.write_text("".join(lines))

    return spoil


def keep_lines(name, count):
    def spoil(root: Path):
        path = root / "raw" / name
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[:count]))

    return spoil


def delete(name):
    return lambda root: (root / "raw" / name).unlink()


def other_video(root: Path):
    with (root / "media" / "rollout.mp4").open("ab") as file:
        file.write(b"\0")


V, S, R, M = "validate-config", "smoke-run", "resume-roundtrip", "mismatch-negative"
LEARNER_ROWS, CASES = f"{S}/metrics-learner.jsonl", f"{M}/cases.jsonl"


def hook(name):
    return change(name, lambda r: r["processes"][0].update(hooks=["parity"]))


SPOILS = {
    "validate/config_hash_differs": change(f"{V}/config.json", set_to(hash="0" * 64)),
    "validate/rules_failed": change_line(f"{V}/rules.jsonl", set_to(outcome="failed")),
    "validate/rules_checked": keep_lines(f"{V}/rules.jsonl", 3),
    "validate/bad_configs_accepted": change_line(f"{V}/refused.jsonl", set_to(exit_code=0)),
    "validate/contract_failed": change_line(f"{V}/contract.jsonl", set_to(outcome="failed")),
    "validate/contract_checked": keep_lines(f"{V}/contract.jsonl", 1),
    "validate/analytic_kinds_missing": drop_line(f"{V}/analytic.jsonl", 1),
    "validate/analytic_max_error": change_line(
        f"{V}/analytic.jsonl", lambda r: r.update(log_prob=r["log_prob"] + 0.01), 0
    ),
    "validate/preflight_failed": change_line(f"{V}/preflight.jsonl", set_to(outcome="failed")),
    "validate/env_ready": change(f"{V}/env.json", set_to(frame_std=0.0)),
    "validate/profile_inconsistent": change(f"{V}/profile.json", set_to(profile="libero")),
    "validate/settings_missing": change(f"{V}/settings.json", set_to(control_mode=None)),
    "validate/inputs_missing": change(
        f"{V}/inputs.json", lambda r: r["checkpoint"].update(licence="")
    ),
    "validate/split_overlap": change(
        f"{V}/split.json", lambda r: next(iter(r["tasks"].values()))["heldout"].append(3)
    ),
    "validate/checks_disabled": change(f"{V}/config.json", set_to(hooks=["handshake"])),
    "smoke/processes": change(
        f"{S}/processes.json", lambda r: r["processes"][1].update(label="p1")
    ),
    "smoke/checks_disabled": hook(f"{S}/processes.json"),
    "smoke/handshakes_missing": delete(f"{S}/handshake-0.json"),
    "smoke/handshake_fields_differ": change(
        f"{S}/handshake-0.json", lambda r: r["actor"].update(variant="flow-noise")
    ),
    "smoke/effective_configs_differ": lambda root: (
        root / "raw" / S / "config-actor-0.json"
    ).write_text("{}"),
    "smoke/decisions_unaccounted": change(
        f"{S}/counters-learner.json", lambda r: r.update(consumed=r["consumed"] - 1)
    ),
    "smoke/decisions_consumed": change(f"{S}/counters-learner.json", set_to(consumed=0)),
    "smoke/episodes_unaccounted": drop_line(f"{S}/episodes.jsonl", -1),
    "smoke/bytes_unaccounted": change(f"{S}/counters-learner.json", set_to(bytes_received=1)),
    "smoke/versions_published": change(f"{S}/counters-learner.json", set_to(published=[0])),
    "smoke/versions_acted": change(f"{S}/counters-actor-0.json", set_to(versions_received=[0])),
    "smoke/exit_codes_nonzero": change(
        f"{S}/processes.json", lambda r: r["processes"][1].update(exit_code=1)
    ),
    "smoke/processes_left": change(f"{S}/leftovers.json", set_to(processes=["p2"])),
    "smoke/ports_left": change(f"{S}/leftovers.json", set_to(ports=["learner"])),
    "smoke/shared_memory_left": change(f"{S}/leftovers.json", set_to(shared_memory=["pirl-1"])),
    "smoke/updates": keep_lines(LEARNER_ROWS, 1),
    "smoke/metrics_missing": change_line(
        LEARNER_ROWS, lambda r: r["metrics"].pop("update/kl_first")
    ),
    "smoke/non_finite": change_line(LEARNER_ROWS, set_metric("update/value_loss", "NaN")),
    "smoke/parity_max_abs": change_line(LEARNER_ROWS, set_metric("update/parity_max_abs", 0.002)),
    "smoke/parity_mean_abs": change_line(LEARNER_ROWS, set_metric("update/parity_mean_abs", 2e-4)),
    "smoke/ratio_first_max_abs": change_line(
        LEARNER_ROWS, set_metric("update/ratio_first_max_abs", 0.01)
    ),
    "smoke/clip_first_fraction": change_line(
        LEARNER_ROWS, set_metric("update/clip_first_fraction", 0.01)
    ),
    "smoke/kl_first": change_line(LEARNER_ROWS, set_metric("update/kl_first", 1e-4)),
    "smoke/trained_unchanged": change(
        f"{S}/digests.json", lambda r: r["after"].update(trained=r["before"]["trained"])
    ),
    "smoke/frozen_changed": change(
        f"{S}/digests.json",
        lambda r: r["after"]["frozen"].update(dict.fromkeys(r["after"]["frozen"], "x")),
    ),
    "smoke/episodes": keep_lines(f"{S}/episodes.jsonl", 1),
    "smoke/wrong_env": change_line(f"{S}/episodes.jsonl", set_to(env_type="libero")),
    "smoke/heldout_states_used": change_line(f"{S}/episodes.jsonl", set_to(init_state_id=44)),
    "smoke/success_count_gap": change_line(LEARNER_ROWS, set_metric("rollout/successes", 8.0)),
    "smoke/video_shown": other_video,
    "smoke/stage_times_missing": lambda root: [
        change_line(f"{S}/metrics-actor-0.jsonl", lambda r: r["metrics"].clear(), i)(root)
        for i in range(3)
    ],
    "resume/not_killed": change(f"{R}/kill.json", set_to(signal="SIGTERM", exit_code=-15)),
    "resume/same_process": change(
        f"{R}/processes.json", lambda r: r["processes"][2].update(label="p4")
    ),
    "resume/deadline_missed": change(f"{R}/kill.json", set_to(resume_elapsed_s=121.0)),
    "resume/checks_disabled": hook(f"{R}/processes.json"),
    "resume/loaded_differs": change(f"{R}/digests.json", lambda r: r["loaded"].update(rng="x")),
    "resume/final_differs": change(
        f"{R}/digests.json", lambda r: r["resumed"].update(optimizer="x")
    ),
    "resume/weights_moved": change(
        f"{R}/digests.json", lambda r: r["resumed"].update(trained=r["saved"]["trained"])
    ),
    "resume/updates_missing": drop_line(f"{R}/metrics-resumed.jsonl", 1),
    "resume/metrics_compared": lambda root: [
        (root / "raw" / R / f"metrics-{run}.jsonl").write_text(
            '{"format":1,"step":1,"version":1,"elapsed_s":1,"metrics":{"update/policy_loss":1}}\n'
        )
        for run in ("uninterrupted", "interrupted", "resumed")
    ],
    "resume/metrics_differ": change_line(
        f"{R}/metrics-resumed.jsonl", set_metric("update/policy_loss", 0.5)
    ),
    "resume/manifest_differs": change(f"{R}/checkpoint.json", lambda r: r["found"].clear()),
    "resume/damaged_accepted": change_line(f"{R}/damaged.jsonl", set_to(exit_code=0)),
    "resume/interrupted_saves_lost": change_line(
        f"{R}/interrupted_saves.jsonl", set_to(earlier_checkpoint_loads=False)
    ),
    "resume/stock_keys_differ": change(f"{R}/stock.json", set_to(missing_keys=["model.a"])),
    "resume/stock_actions_max_abs": change(
        f"{R}/stock.json", lambda r: r["actions_stock"].__setitem__(0, 0.1000001)
    ),
    "resume/stock_actions_spread": change(f"{R}/stock.json", set_to(actions_stock=[0.5] * 4)),
    "mismatch/control_accepted": change_line(CASES, set_to(exit_code=5), 0),
    "mismatch/classes_missing": drop_line(CASES, 5),
    "mismatch/directions_missing": lambda root: [
        change_line(CASES, set_to(direction="actor-to-learner"), i)(root) for i in range(22)
    ],
    "mismatch/wrong_exit_code": change_line(CASES, set_to(exit_code=1)),
    "mismatch/late": change_line(CASES, set_to(elapsed_s=61.0)),
    "mismatch/unnamed": change_line(CASES, set_to(fields=[])),
    "mismatch/accepted_transitions": change_line(CASES, set_to(transitions_accepted=1)),
    "mismatch/optimiser_steps": change_line(CASES, set_to(optimiser_steps=1)),
    "mismatch/unhealthy_learners": change_line(CASES, set_to(learner_healthy=False)),
    "mismatch/checks_disabled": change_line(CASES, set_to(hooks=["handshake"])),
    "mismatch/teeth_missing": drop_line(f"{M}/teeth.jsonl", 0),
    "mismatch/toothless": change_line(
        f"{M}/teeth.jsonl",
        set_to(
            exit_code=5,
            transitions_accepted=0,
            fields=[{"field": "config_hash", "ours": "a", "theirs": "b"}],
        ),
    ),
}


def test_every_criterion_has_a_spoil():
    assert set(SPOILS) == set(BY_NAME)


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_criterion_does_not_pass_when_what_it_guards_is_broken(name, raw):
    assert judge_criterion(BY_NAME[name], raw).verdict == Verdict.PASSED
    SPOILS[name](raw.root)
    result = judge_criterion(BY_NAME[name], raw)
    assert result.verdict != Verdict.PASSED, result


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_criterion_is_not_run_without_any_record(name, tmp_path):
    verdict = judge_criterion(BY_NAME[name], RawRecords(tmp_path)).verdict
    assert verdict in (Verdict.NOT_RUN, Verdict.FAILED)


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_criterion_says_where_its_number_comes_from(name):
    assert recompute_function(BY_NAME[name]).__doc__
    assert recompute_function(BY_NAME[name]).__name__ == name.split("/")[1]


def test_no_raw_record_can_be_left_out(raw):
    assert judge_gate(raw).verdict == Verdict.PASSED
    for path in sorted((raw.root / "raw").rglob("*.json*")):
        content = path.read_bytes()
        path.unlink()
        assert judge_gate(raw).verdict != Verdict.PASSED, path.name
        path.write_bytes(content)


def no_tensor(record):
    for side in ("before", "after"):
        record[side]["frozen"] = {}


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("validate/split_overlap", change(f"{V}/split.json", set_to(tasks={}))),
        (
            "validate/split_overlap",
            change(f"{V}/split.json", lambda r: next(iter(r["tasks"].values())).update(heldout=[])),
        ),
        ("smoke/exit_codes_nonzero", change(f"{S}/processes.json", set_to(processes=[]))),
        ("smoke/frozen_changed", change(f"{S}/digests.json", no_tensor)),
        (
            "smoke/ports_left",
            change(f"{S}/leftovers.json", lambda r: r["looked_for"].update(ports=[])),
        ),
        (
            "resume/manifest_differs",
            change(f"{R}/checkpoint.json", set_to(manifest={}, found={})),
        ),
        ("mismatch/late", keep_lines(CASES, 1)),
        ("mismatch/toothless", keep_lines(f"{M}/teeth.jsonl", 0)),
    ],
)
def test_counting_violations_among_nothing_proves_nothing(raw, name, spoil):
    spoil(raw.root)
    assert judge_criterion(BY_NAME[name], raw).verdict == Verdict.NOT_RUN


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (f"{S}/counters-learner.json", "[]"),
        (f"{S}/counters-learner.json", "{"),
        (f"{S}/counters-learner.json", '{"received": NaN}'),
        (f"{S}/counters-learner.json", '{"received": "many", "consumed": true}'),
        (f"{S}/episodes.jsonl", "{}\n"),
        (f"{M}/cases.jsonl", '{"class": 3}\n'),
        (f"{V}/analytic.jsonl", '{"kind":"gaussian","x":[1],"mean":[1],"std":[0],"log_prob":0}\n'),
        (f"{V}/analytic.jsonl", '{"kind":"guess"}\n'),
    ],
)
def test_malformed_record_never_passes_and_never_raises(raw, name, content):
    (raw.root / "raw" / name).write_text(content)
    assert judge_gate(raw).verdict == Verdict.FAILED


def test_deadline_that_no_one_could_miss_is_not_a_deadline(raw):
    change_line(CASES, set_to(deadline_s=1e9))(raw.root)
    assert judge_criterion(BY_NAME["mismatch/late"], raw).verdict == Verdict.FAILED


def test_refusal_that_names_another_field_does_not_count(raw):
    wrong = [{"field": "seed", "ours": 1, "theirs": 2}]
    change_line(CASES, set_to(fields=wrong), 1)(raw.root)
    assert judge_criterion(BY_NAME["mismatch/unnamed"], raw).detail == "config-hash"


def test_refusal_that_shows_one_value_twice_does_not_count(raw):
    same = [{"field": "config_hash", "ours": "a", "theirs": "a"}]
    change_line(CASES, set_to(fields=same), 1)(raw.root)
    assert judge_criterion(BY_NAME["mismatch/unnamed"], raw).verdict == Verdict.FAILED


def test_control_that_is_not_first_does_not_count(raw):
    path = raw.root / "raw" / CASES
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[1:], lines[0]]))
    assert judge_criterion(BY_NAME["mismatch/control_accepted"], raw).verdict == Verdict.FAILED


@pytest.mark.parametrize(
    "changes",
    [
        {"class": "config-hash"},
        {"probe": "client"},
        {"exit_code": 5},
        {"transitions_accepted": 0},
        {"fields": [{"field": "config_hash", "ours": "a", "theirs": "b"}]},
        {"learner_healthy": False},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_control_that_was_not_wholly_accepted_does_not_count(raw, changes):
    change_line(CASES, set_to(**changes), 0)(raw.root)
    assert measure_mismatch.control_accepted(raw).value is False


def test_a_check_that_no_process_reported_as_disabled_has_no_teeth(raw):
    change_line(f"{M}/teeth.jsonl", set_to(hooks=[]), 0)(raw.root)
    assert measure_mismatch.teeth_missing(raw).value == 1


@pytest.mark.parametrize("side", ["saved", "loaded"])
def test_a_part_of_the_state_that_one_side_lacks_differs(raw, side):
    change(f"{R}/digests.json", lambda r: r[side].pop("optimizer"))(raw.root)
    assert measure_resume.loaded_differs(raw).detail == "optimizer"


def test_damage_that_was_refused_without_its_part_counts_as_accepted(raw):
    change_line(f"{R}/damaged.jsonl", set_to(message="something is wrong"), 0)(raw.root)
    assert measure_resume.damaged_accepted(raw).value == 1


def test_crashed_episode_counts_as_a_failure(raw):
    def crash(record):
        record.update(end="env-error", success=False)

    change_line(f"{S}/episodes.jsonl", crash, 0)(raw.root)
    (outcome,) = judge_gate(raw).episodes
    assert (outcome.rate.successes, outcome.rate.episodes, outcome.errors) == (11, 24, 1)


def test_end_that_contradicts_success_is_refused(raw):
    change_line(f"{S}/episodes.jsonl", set_to(end="timeout", success=True), 0)(raw.root)
    assert judge_criterion(BY_NAME["smoke/episodes"], raw).verdict == Verdict.FAILED


def test_repeated_episode_is_refused(raw):
    change_line(f"{S}/episodes.jsonl", set_to(episode_id=0))(raw.root)
    assert judge_criterion(BY_NAME["smoke/episodes"], raw).verdict == Verdict.FAILED


def test_version_that_was_never_published_does_not_count_as_acted(raw):
    change(f"{S}/counters-learner.json", set_to(published=[0, 7]))(raw.root)
    assert judge_criterion(BY_NAME["smoke/versions_acted"], raw).measured == 1


def test_wall_time_may_differ_between_runs_and_losses_may_not(raw):
    name = f"{R}/metrics-resumed.jsonl"
    change_line(name, set_metric("time/update_s", 99.0))(raw.root)
    assert judge_criterion(BY_NAME["resume/metrics_differ"], raw).verdict == Verdict.PASSED
    change_line(name, set_metric("update/grad_norm_actor", 0.7000000000000001))(raw.root)
    assert judge_criterion(BY_NAME["resume/metrics_differ"], raw).measured == 1


def test_gpu_thresholds_hold_on_the_gpu_only(raw):
    change_line(LEARNER_ROWS, set_metric("update/parity_max_abs", 0.05))(raw.root)
    criterion = BY_NAME["smoke/parity_max_abs"]
    assert judge_criterion(criterion, raw, numerics="cpu/float32").verdict == Verdict.FAILED
    assert judge_criterion(criterion, raw, numerics="cpu/bfloat16").verdict == Verdict.FAILED
    assert judge_criterion(criterion, raw, numerics="cuda/float32").verdict == Verdict.PASSED
