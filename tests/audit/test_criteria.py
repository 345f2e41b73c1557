"""What a criterion makes of records that are missing, malformed or say too little."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pirl.audit.criteria.learning import REWARDED_ENV, REWARDED_TASK, is_of
from pirl.audit.criterion import Verdict
from pirl.audit.judge import judge_criterion, judge_gate
from pirl.audit.policy import CRITERIA
from pirl.audit.raw import RawRecords
from pirl.audit.records import files
from pirl.audit.records.files import MISMATCH, RESUME, SMOKE, VALIDATE
from pirl.config.load import load_config
from pirl.config.train import env_of
from pirl.envs import describe_env
from pirl.gate.profiles import BASE_CONFIGS, REWARDED_CONFIGS, resolve_rewarded
from pirl.resources import locate
from pirl.runtime.identity import settings_of

BY_NAME = {criterion.name: criterion for criterion in CRITERIA}


def change(step, name, edit):
    """A spoil: apply `edit` to the object in a file."""

    def spoil(root: Path):
        path = root / "raw" / step / name
        value = json.loads(path.read_text())
        edit(value)
        path.write_text(json.dumps(value))

    return spoil


def change_line(step, name, edit, index=-1):
    """A spoil: apply `edit` to one line of a file."""

    def spoil(root: Path):
        path = root / "raw" / step / name
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        edit(lines[index])
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    return spoil


def set_to(**values):
    return lambda record: record.update(values)


def keep_lines(step, name, count):
    def spoil(root: Path):
        path = root / "raw" / step / name
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:count]))

    return spoil


def verdict(name, raw):
    return judge_criterion(BY_NAME[name], raw).verdict


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_criterion_is_not_run_without_any_record(name, tmp_path):
    assert verdict(name, RawRecords(tmp_path)) is Verdict.NOT_RUN


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_criterion_is_one_function_with_a_description(name):
    criterion = BY_NAME[name]
    assert criterion.measure.__name__ == name.split("/")[1]
    assert criterion.recompute == f"{criterion.measure.__module__}.{criterion.measure.__name__}"
    assert criterion.description.endswith(".")


def test_no_raw_record_can_be_left_out(raw):
    assert judge_gate(raw).verdict == Verdict.PASSED
    for path in sorted((raw.root / "raw").rglob("*.json*")):
        if path.name in ("step.json", "commands.jsonl"):
            continue
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
        ("validate/split_overlap", change(VALIDATE, "split.json", set_to(tasks={}))),
        ("smoke/exit_codes_nonzero", keep_lines(SMOKE, "processes.jsonl", 0)),
        ("smoke/frozen_changed", change(SMOKE, "tensors.json", no_tensor)),
        (
            "smoke/ports_left",
            change(SMOKE, "leftovers.json", lambda r: r["looked_for"].update(ports=[])),
        ),
        ("resume/manifest_differs", change(RESUME, "checkpoint.json", set_to(manifest={}, found={}))),
        ("mismatch/late", keep_lines(MISMATCH, "cases.jsonl", 0)),
        ("mismatch/toothless", keep_lines(MISMATCH, "teeth.jsonl", 0)),
    ],
)  # fmt: skip
def test_counting_violations_among_nothing_proves_nothing(raw, name, spoil):
    spoil(raw.root)
    assert verdict(name, raw) is Verdict.NOT_RUN


@pytest.mark.parametrize(
    ("step", "name", "content"),
    [
        (SMOKE, "counters-learner.json", "[]"),
        (SMOKE, "counters-learner.json", "{"),
        (SMOKE, "counters-learner.json", '{"received": NaN}'),
        (SMOKE, "counters-learner.json", '{"received": "many", "consumed": true}'),
        (SMOKE, "episodes.jsonl", "{}\n"),
        (MISMATCH, "cases.jsonl", '{"name": 3}\n'),
        (VALIDATE, "analytic-gaussian.jsonl", '{"x":[1.0],"mean":[1.0],"std":[0.0],"log_prob":0.0}\n'),
    ],
)  # fmt: skip
def test_malformed_record_never_passes_and_never_raises(raw, step, name, content):
    (raw.root / "raw" / step / name).write_text(content)
    assert judge_gate(raw).verdict == Verdict.FAILED


def test_deadline_that_no_one_could_miss_is_not_a_deadline(raw):
    change_line(MISMATCH, "cases.jsonl", set_to(deadline_s=1e9))(raw.root)
    assert verdict("mismatch/late", raw) is Verdict.FAILED


@pytest.mark.parametrize(
    ("field", "ours", "theirs"), [("seed", "1", "2"), ("config_hash", "a", "a")]
)
def test_refusal_that_names_another_field_or_one_value_does_not_count(raw, field, ours, theirs):
    wrong = [{"field_name": field, "ours": ours, "theirs": theirs}]
    change_line(MISMATCH, "cases.jsonl", set_to(fields=wrong), 0)(raw.root)
    assert judge_criterion(BY_NAME["mismatch/unnamed"], raw).detail == "config-hash"


def test_a_contact_before_the_end_of_its_case_is_no_proof(raw):
    change_line(MISMATCH, "cases.jsonl", lambda r: r["contact"].update(started_s=0.0))(raw.root)
    assert verdict("mismatch/unhealthy_learners", raw) is Verdict.FAILED


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "config-hash"}, {"probe": "client"}, {"exit_code": 5}, {"decisions": 0},
        {"optimiser_steps": 0}, {"started_s": 1e6},
        {"fields": [{"field_name": "config_hash", "ours": "a", "theirs": "b"}]},
    ],
    ids=lambda changes: next(iter(changes)),
)  # fmt: skip
def test_a_control_that_was_not_first_and_wholly_accepted_does_not_count(raw, changes):
    change(MISMATCH, "control.json", set_to(**changes))(raw.root)
    assert judge_criterion(BY_NAME["mismatch/control_accepted"], raw).measured is False


@pytest.mark.parametrize("side", ["saved", "loaded"])
def test_a_part_of_the_state_that_one_side_lacks_differs(raw, side):
    change(RESUME, "digests.json", lambda r: r[side].pop("optimizer"))(raw.root)
    assert judge_criterion(BY_NAME["resume/loaded_differs"], raw).detail == "optimizer"


def test_damage_that_was_refused_without_its_part_counts_as_accepted(raw):
    change_line(RESUME, "damaged.jsonl", set_to(message="something is wrong"), 0)(raw.root)
    assert judge_criterion(BY_NAME["resume/damaged_accepted"], raw).measured == 1


def test_crashed_episode_counts_as_a_failure(raw):
    crash = set_to(end="env-error", reward=None, update=None)
    change_line(SMOKE, "episodes.jsonl", crash, 0)(raw.root)
    (outcome,) = judge_gate(raw).episodes
    assert (outcome.rate.successes, outcome.rate.episodes, outcome.errors) == (24, 40, 1)


@pytest.mark.parametrize(
    "changes",
    [{"end": "lost"}, {"end": "env-error"}, {"reward": None}, {"episode_id": 0},
     {"end": "interrupted", "reward": None}],
)  # fmt: skip
def test_an_episode_that_contradicts_itself_is_refused(raw, changes):
    change_line(SMOKE, "episodes.jsonl", set_to(**changes))(raw.root)
    assert verdict("smoke/episodes", raw) is Verdict.FAILED


def test_version_that_was_never_published_does_not_count_as_acted(raw):
    change(SMOKE, "counters-learner.json", set_to(published=[0, 7]))(raw.root)
    assert judge_criterion(BY_NAME["smoke/versions_acted"], raw).measured == 1


def set_metric(name, value):
    return lambda row: row["metrics"].update({name: value})


def test_wall_time_may_differ_between_runs_and_losses_may_not(raw):
    change_line(RESUME, "metrics-resumed.jsonl", set_metric("time/update_s", 99.0))(raw.root)
    assert verdict("resume/metrics_differ", raw) is Verdict.PASSED
    loss = set_metric("update/grad_norm_actor", 0.7000000000000001)
    change_line(RESUME, "metrics-resumed.jsonl", loss)(raw.root)
    assert judge_criterion(BY_NAME["resume/metrics_differ"], raw).measured == 1


def test_gpu_thresholds_hold_on_the_gpu_only(raw):
    change_line(SMOKE, "metrics-learner.jsonl", set_metric("update/parity_max_abs", 0.05))(raw.root)
    criterion = BY_NAME["smoke/parity_max_abs"]
    verdicts = {
        numerics: judge_criterion(criterion, raw, numerics=numerics).verdict
        for numerics in ("cpu/float32", "cpu/bfloat16", "cuda/float32")
    }
    assert list(verdicts.values()) == [Verdict.FAILED, Verdict.FAILED, Verdict.PASSED]


@pytest.mark.parametrize("profile", BASE_CONFIGS)
def test_the_environment_of_an_identity_is_known_as_that_of_its_profile(profile):
    cfg = load_config(locate(BASE_CONFIGS[profile])).cfg
    environment, env = str(settings_of(cfg)["environment"]), env_of(cfg)
    assert is_of(environment, f"{env.type}/{env.task}")
    for other in (f"{env.type}/{env.task}"[:-1], f"{env.type}/{env.task}0", f"x/{env.task}"):
        assert not is_of(environment, other)


def test_an_environment_that_is_no_suite_is_known_by_its_tasks(raw):
    tasks = ["button-press-topdown-v3", "drawer-close-v3"]
    change(VALIDATE, "inputs.json", lambda r: r["environment"].update(tasks=tasks))(raw.root)
    both = "pirl_metaworld/button-press-topdown-v3+drawer-close-v3, limit 95"
    change(SMOKE, "handshake-0.json", lambda r: r["actor"].update(environment=both))(raw.root)
    assert judge_criterion(BY_NAME["smoke/wrong_env"], raw).measured == 0
    less = both.replace("+drawer-close-v3", "+drawer-close")
    change(SMOKE, "handshake-0.json", lambda r: r["actor"].update(environment=less))(raw.root)
    assert judge_criterion(BY_NAME["smoke/wrong_env"], raw).measured == 1


@pytest.mark.parametrize("variant", ["flow-sde", "flow-noise"])
def test_the_rewarded_run_is_the_one_that_its_criteria_expect(tmp_path, variant):
    target = tmp_path / "rewarded.json"
    checked = resolve_rewarded("libero", variant=variant, target=target)
    cfg = load_config(target).cfg
    assert checked.identity.hash == load_config(target).identity.hash
    assert (str(cfg.pirl.variant), cfg.runtime.actors) == (variant, len(files.REWARDED_ROLES) - 1)
    assert str(settings_of(cfg)["environment"]).startswith(f"{REWARDED_ENV}, limit ")
    assert describe_env(env_of(cfg)).task_names == (REWARDED_TASK,)
    assert set(REWARDED_CONFIGS) == {files.REWARDED}
    assert resolve_rewarded("embedded", variant=variant, target=tmp_path / "none") is None


@pytest.mark.parametrize(
    ("said", "found", "expected"),
    [
        (1, [], Verdict.PASSED),
        (2, [1], Verdict.PASSED),
        (2, [], Verdict.FAILED),
        (3, [1], Verdict.FAILED),
        (1, [1], Verdict.FAILED),
        ("two", [1], Verdict.FAILED),
        (None, [], Verdict.FAILED),
    ],
)
def test_there_are_as_many_learner_processes_as_the_config_says(raw, said, found, expected):
    change(SMOKE, "config-learner.json", set_to(parallelism={"dp_replicate": said}))(raw.root)
    path = raw.root / "raw" / SMOKE / "processes.jsonl"
    lines = path.read_text().splitlines()
    first = next(json.loads(line) for line in lines if json.loads(line)["role"] == "learner")
    more = [first | {"role": f"learner-{rank}", "nonce": f"{rank:032x}"} for rank in found]
    path.write_text("\n".join([*lines, *map(json.dumps, more)]) + "\n")
    assert verdict("smoke/processes", raw) is expected


def test_without_the_config_of_the_learner_nobody_knows_how_many_processes_it_is(raw):
    (raw.root / "raw" / SMOKE / "config-learner.json").unlink()
    assert verdict("smoke/processes", raw) is Verdict.NOT_RUN


def test_a_config_that_is_silent_about_processes_is_not_taken_for_one(raw):
    change(SMOKE, "config-learner.json", lambda config: config.pop("parallelism"))(raw.root)
    result = judge_criterion(BY_NAME["smoke/processes"], raw)
    assert result.verdict is Verdict.FAILED
    assert "config-learner.json: no number of processes" in result.detail


@pytest.mark.parametrize(
    ("name", "expected"), [("config-hash", Verdict.FAILED), ("execution-horizon", Verdict.PASSED)]
)
def test_a_class_that_needs_a_process_is_not_shown_by_a_client(raw, name, expected):
    path = raw.root / "raw" / MISMATCH / "cases.jsonl"
    cases = [json.loads(line) for line in path.read_text().splitlines()]
    for case in cases:
        case["probe"] = "client" if case["name"] == name else "process"
    path.write_text("".join(json.dumps(case) + "\n" for case in cases))
    assert verdict("mismatch/classes_missing", raw) is expected
