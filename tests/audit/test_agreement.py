"""What one record says is held against the others: a forger who writes everything else again is still found.

One spoil or more for each tie, sealed again and with reports written anew.
"""

from __future__ import annotations

import json
import re

import pytest
from tampering import edit, edit_line, rewrite

from pirl.audit import verify_agreement
from pirl.audit.criteria.link import AGREED
from pirl.audit.criteria.validate import CLAUSES
from pirl.audit.records.files import MISMATCH, RESUME, SMOKE, VALIDATE
from pirl.audit.verify import verify_bundle
from pirl.contract import check
from pirl.transport.identity import Identity

V, S, R, M = (f"raw/{step}" for step in (VALIDATE, SMOKE, RESUME, MISMATCH))
RUN, MACHINE = "metadata/run.json", "metadata/environment.json"
ROWS, EPISODES = f"{S}/metrics-learner.jsonl", f"{S}/episodes.jsonl"


def put(*place, value):
    """Another value at a place of a record; a function is given the old one."""

    def change(record):
        *above, key = place
        for part in above:
            record = record[part]
        record[key] = value(record[key]) if callable(value) else value

    return change


def metric(name, value, file=ROWS, line=0):
    """Another value in a metric row, in its own layout."""

    def tamper(bundle):
        lines = (bundle / file).read_text().splitlines()
        row = json.loads(lines[line])
        row["metrics"][name] = value
        lines[line] = json.dumps(row, separators=(",", ":"))
        (bundle / file).write_text("".join(text + "\n" for text in lines))

    return tamper


def keep(file, first=0, last=None):
    """Only some lines of a file."""

    def tamper(bundle):
        lines = (bundle / file).read_text().splitlines(keepends=True)
        (bundle / file).write_text("".join(lines[first:last]))

    return tamper


def again(file, **changes):
    """One line of a file once more, with changes."""

    def tamper(bundle):
        text = (bundle / file).read_text()
        more = json.loads(text.splitlines()[0]) | changes
        (bundle / file).write_text(text + json.dumps(more, sort_keys=True) + "\n")

    return tamper


def both(*tampers):
    def tamper(bundle):
        for one in tampers:
            one(bundle)

    return tamper


def settings(name, value):
    return edit(f"{V}/settings.json", put(name, value=value)), f"settings.json {name}"


def said(file, value, *place):
    return edit(file, put(*place, value=value)), f"{file.rpartition('/')[2]} {'.'.join(place)}"


def two_episodes_exchanged(bundle):
    """A success of one update for a time-out of another: the sums stay."""
    lines = [json.loads(line) for line in (bundle / EPISODES).read_text().splitlines()]
    won = next(e for e in lines if e["end"] == "success")
    lost = next(e for e in lines if e["end"] == "timeout" and e["update"] != won["update"])
    for key in ("end", "reward", "env_steps", "decisions"):
        won[key], lost[key] = lost[key], won[key]
    text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
    (bundle / EPISODES).write_text(text)


def variant_of_all_records(bundle):
    for folder in ("raw", "metadata"):
        for path in (bundle / folder).rglob("*.json*"):
            if not path.name.startswith("config-"):
                path.write_text(path.read_text().replace('"flow-sde"', '"flow-noise"'))


def sides(**changes):
    return lambda record: [
        record[side].update(changes) for side in ("learner", "received", "actor")
    ]


def counters(**changes):
    return edit(f"{S}/counters-learner.json", lambda record: record.update(changes))


def case(value, *place, line=0, file=f"{M}/cases.jsonl"):
    return edit_line(file, put(*place, value=value), line)


SPOILT = {
    **{f"settings {name}": settings(name, value) for name, value in {
        "seed": 8, "total_updates": 500, "rollout_chunks": 9, "mode": "async", "split": "heldout",
        "torch_threads": 64, "episode_length": 9300, "numerics": "cuda/float32", "noise": {"noise_level": 0.9},
        "success_definition": "nearly there", "stopping_rule": "when it looked good",
    }.items()},
    "a recipe": said(f"{V}/config.json", "ppo", "recipe"),
    "the variant of all records": (variant_of_all_records, "config.json variant"),
    "a number in the command": (
        edit(RUN, lambda r: r["command"].append("--seed=9")), "run.json --seed"),
    "a number in the command, in two words": (
        edit(RUN, lambda r: r["command"].extend(["--runtime.total_updates", "500"])), "--runtime.total_updates"),
    "a word in the command": (edit(RUN, lambda r: r["command"].append("waived")), "run.json command"),
    "a rule that failed": (keep(f"{V}/rules.jsonl", 1), "rules.jsonl"),
    "a clause that was broken": (keep(f"{V}/contract.jsonl", 1), "contract.jsonl"),
    "a case of a bad config": (again(f"{V}/invalid.jsonl", case="harmless"), "invalid.jsonl"),
    "the reason of the profile": said(f"{V}/profile.json", "as good as libero", "reason"),
    "no reason of the profile": said(f"{V}/profile.json", "", "reason"),
    "a version of a package": (
        edit_line(f"{V}/packages.jsonl", put("version", value="0.6.99"), 1), "packages.jsonl"),
    "the version of Python": (edit(MACHINE, put("python", value="3.9.0")), "packages.jsonl python"),
    "a check that was off": (
        edit(MACHINE, put("variables", "PIRL_TEST_DISABLE", value="parity")), "config.json hooks"),
    "the simulator": said(f"{V}/inputs.json", "LIBERO", "environment", "name"),
    "the simulator's version": said(f"{V}/inputs.json", "9.9", "environment", "version"),
    "the version of MuJoCo": said(f"{V}/inputs.json", "9.9", "environment", "mujoco"),
    "which side of the split": said(f"{V}/split.json", "heldout", "mode"),
    "a task that is never played": (
        edit(f"{V}/split.json", lambda r: r["tasks"].update(push={"train": [], "heldout": []})), "split"),
    "the task of the first look": said(f"{V}/first_look.json", "kitchen", "task"),
    "the state of the first look": said(f"{V}/first_look.json", 45, "init_state_id"),
    "the frame of the first look": said(f"{V}/first_look.json", 1e9, "frame_std"),
    "an identity": (edit(f"{S}/handshake-0.json", sides(executed_steps=9)), "handshake-0.json executed_steps"),
    "the split of an identity": (
        edit(f"{S}/handshake-0.json", sides(state_split="heldout of ab")), "handshake-0.json state_split"),
    "the seconds of a contact": said(f"{S}/handshake-0.json", 1e6, "seconds"),
    "a success of another update": (two_episodes_exchanged, "rollout/successes"),
    "steps beyond the limit": (edit_line(EPISODES, put("env_steps", value=9999)), "rollout/env_steps"),
    "decisions of an episode": (edit_line(EPISODES, put("decisions", value=1)), "rollout/mean_decisions"),
    "the reward of a time-out": (edit_line(EPISODES, put("reward", value=5.0), 7), "rollout/mean_return"),
    "an update that never was": (edit_line(EPISODES, put("update", value=99)), "metrics-learner.jsonl updates"),
    "the index of a task": (edit_line(EPISODES, put("task_id", value=7)), "episodes.jsonl 0 task_id"),
    "a version that never acted": (edit_line(EPISODES, put("policy_version", value=99)), "by_version"),
    "consumed and received": (counters(consumed=1, received=1), "counters-learner.json consumed"),
    "bytes of both sides": (
        both(counters(bytes_received=7), edit(f"{S}/counters-actor-0.json", put("bytes_sent", value=7))),
        "counters-learner.json bytes_received"),
    "a version more": (
        edit(f"{S}/counters-learner.json", lambda r: r["published"].append(5)), "counters-learner.json published"),
    "a version that nobody sent": (
        edit(f"{S}/counters-actor-0.json", lambda r: r["versions_received"].append(99)), "versions_received"),
    "decisions by version": (
        edit(f"{S}/counters-actor-0.json", lambda r: r["by_version"].update({
            "0": r["by_version"]["0"] + 1, "1": r["by_version"]["1"] - 1})), "by_version"),
    "a rollout of an actor": (
        metric("rollout/successes", 8.0, f"{S}/metrics-actor-0.jsonl"), "version 0 successes"),
    "rollouts of an actor": (keep(f"{S}/metrics-actor-0.jsonl", 1), "version 0 episodes"),
    "a metric of one run only": (metric("update/approx_kl", 1e-9), "metrics-uninterrupted.jsonl"),
    "seconds of a process": (edit_line(f"{S}/processes.jsonl", put("seconds", value=1e6), 1), "actor-0 times"),
    "the start of a process": (
        edit_line(f"{S}/processes.jsonl", put("started_s", value=-9.0), 1), "actor-0 times"),
    "seconds of the uninterrupted learner": (
        edit_line(f"{R}/processes.jsonl", put("seconds", value=0.5)), "learner-uninterrupted seconds"),
    "actors of the resumed run": (keep(f"{R}/processes.jsonl", 0, -1), "resume-roundtrip/processes.jsonl"),
    "what was looked for": (
        edit(f"{S}/leftovers.json", put("looked_for", "processes", value=["x"])), "leftovers.json looked_for"),
    "whom a command is about": (
        edit_line(f"{S}/commands.jsonl", put("about", value="nobody")), "smoke-run/commands.jsonl"),
    "what a command runs": (
        edit_line(f"{S}/commands.jsonl", put("argv", value=["python", "-m", "pirl.liar"])), "no pirl.learner"),
    "when the learner was killed": said(f"{R}/kill.json", 4, "killed_after_update"),
    "how long the run was": said(f"{R}/kill.json", 4, "total_updates"),
    "how long the resume took": said(f"{R}/kill.json", 1e6, "resume_elapsed_s"),
    "how soon the resume was over": (
        both(edit(f"{R}/kill.json", put("resume_elapsed_s", value=0.0)),
             edit_line(f"{R}/processes.jsonl", put("seconds", value=2.1), 3)), "kill.json resume_elapsed_s"),
    "a part of the checkpoint": (
        edit(f"{R}/checkpoint.json", lambda r: [side.pop("optimizer.safetensors") for side in r.values()]),
        "damaged.jsonl parts"),
    "a class of its own": (again(f"{M}/cases.jsonl", name="flare", probe="client"), "cases.jsonl names"),
    "a direction of its own": (case("sideways", "direction"), "cases.jsonl directions"),
    "a probe of its own": (case("magic", "probe", line=15), "cases.jsonl probes"),
    "a case after its step": (case(1e6, "contact", "started_s"), "config-hash contact"),
    "a case that took less than no time": (
        edit(f"{M}/control.json", put("elapsed_s", value=-50.0)), "control.json elapsed_s"),
    "the direction of the control": said(f"{M}/control.json", "checkpoint", "direction"),
    "a tooth of its own": (again(f"{M}/teeth.jsonl", disabled="gravity"), "teeth.jsonl"),
    "a tooth that was killed": (case(None, "case", "exit_code", file=f"{M}/teeth.jsonl"), "teeth.jsonl killed"),
    "a save that was lost": (keep(f"{R}/save_kills.jsonl", 1), "save_kills.jsonl"),
    "a closed form that does not hold": (keep(f"{V}/analytic-std.jsonl", 1), "analytic-std.jsonl"),
    "a density that is easy": (edit_line(f"{V}/analytic-gaussian.jsonl", lambda r: r.update(
        x=[0.0], mean=[0.0], std=[1.0], log_prob=-0.9189385332046727)), "analytic-gaussian.jsonl"),
    "a count below zero": (counters(dropped={"stale": -5}, consumed=1), "counters-learner.json dropped.stale"),
    "two counts that cancel": (
        both(case(1, "decisions", line=0), case(-1, "decisions", line=1)), "cases.jsonl decisions"),
    "a digest that is none": (
        edit(f"{R}/digests.json", lambda r: [r[side].update(policy="x") for side in ("uninterrupted", "resumed")]),
        "digests.json uninterrupted.policy"),
    "a time below zero": (metric("time/update_s", -5.0), "time/update_s"),
    "a time that is no number": (metric("time/update_s", "NaN"), "time/update_s"),
}  # fmt: skip
"""What is spoilt: (how, where it is found)."""


@pytest.mark.parametrize("name", SPOILT)
def test_a_record_that_the_others_contradict_is_refused(bundle, name):
    tamper, where = SPOILT[name]
    tamper(bundle)
    rewrite(bundle)
    found = [str(p) for p in verify_bundle(bundle).problems if p.check == "agreement"]
    assert any(where in problem for problem in found), found


def test_a_record_that_is_missing_is_left_to_its_criterion(bundle):
    for path in (bundle / "raw").rglob("*.json*"):
        path.unlink()
    assert verify_agreement.agreement(verify_agreement.RawRecords(bundle)) == []


def test_a_value_is_shown_on_one_short_line():
    assert verify_agreement.shown(["x" * 200]).endswith("x...")
    assert len(verify_agreement.shown(["x" * 200])) == 80


def test_an_identity_has_the_fields_that_a_handshake_must_have():
    assert set(Identity.__dataclass_fields__) == set(AGREED)


def test_the_contract_has_the_clauses_that_a_bundle_must_have():
    assert tuple(clause.name for clause in check.CLAUSES) == CLAUSES


def test_a_success_that_no_update_used_is_refused(bundle):
    """Else a hundred of them would raise the rate that a reader is shown."""
    again(EPISODES, episode_id=999, update=None)(bundle)
    rewrite(bundle)
    report = verify_bundle(bundle)
    assert re.search("episode 999: an episode was used, or it was broken off", report.to_text())
