"""A bundle is a closed world: what was changed in it is refused with the reason, however well it was hidden."""

from __future__ import annotations

import json
import re
import shutil
from datetime import datetime, timedelta

import pytest
from bundle_builder import Story, build_bundle
from hypothesis import given, settings
from hypothesis import strategies as st
from tampering import (
    add,
    as_it_is,
    edit,
    edit_line,
    leaves,
    remove,
    replace,
    reseal,
    reseal_steps,
    rewrite,
)

from pirl.audit import verify_checks, verify_ties
from pirl.audit.bundle import POSTER, VIDEO
from pirl.audit.records.files import MISMATCH, RESUME, SMOKE, STEPS, VALIDATE
from pirl.audit.verify import verify_bundle
from pirl.journal.codec import dump_json, dump_line

S, M = f"raw/{SMOKE}", f"raw/{MISMATCH}"
RUN, SOURCE = "metadata/run.json", "metadata/source.json"
ROWS = f"{S}/metrics-learner.jsonl"
LEARNER_LOG = f"logs/{SMOKE}/learner.log"
REFUSAL_LOG = f"logs/{MISMATCH}/config-hash-actor-to-learner.log"


def found(bundle) -> str:
    """Every reason, in one text; empty when the bundle is accepted."""
    report = verify_bundle(bundle)
    assert report.is_accepted == (report.reasons == [])
    return "\n".join(str(problem) for problem in report.problems) or "\n".join(report.reasons)


def twice(step):
    """A second row of a known criterion, as the report would show both."""

    def change(record):
        record["criteria"].append(record["criteria"][0] | {"measured": 123456})

    return edit(f"criteria/{step}.json", change)


def line_endings(name):
    def tamper(bundle):
        (bundle / name).write_bytes((bundle / name).read_bytes().replace(b"\n", b"\r\n"))

    return tamper


def more_bytes(name):
    def tamper(bundle):
        (bundle / name).write_bytes((bundle / name).read_bytes() + b"more")

    return tamper


def folder(name):
    return lambda bundle: (bundle / name).mkdir()


def later(text):
    moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ") + timedelta(minutes=20)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def another_actor(bundle):
    shutil.copy(bundle / S / "handshake-0.json", bundle / S / "handshake-1.json")


def swap_rows(name):
    def tamper(bundle):
        lines = (bundle / name).read_text().splitlines(keepends=True)
        (bundle / name).write_text("".join([lines[1], lines[0], *lines[2:]]))

    return tamper


def grant(record):
    record["waiver"] = "granted"


def set_to(**changes):
    return lambda record: record.update(changes)


def reverse_criteria(record):
    record["criteria"].reverse()


def in_year(year):
    def change(record):
        for key in ("started_utc", "ended_utc"):
            record[key] = f"{year}{record[key][4:]}"
            for step in record["steps"].values():
                step[key] = f"{year}{step[key][4:]}"

    return edit(RUN, change)


def another_learner_config(bundle):
    path = bundle / "config" / "train_config.json"
    path.write_text(dump_json(json.loads(path.read_text()) | {"seed": 8}))


TAMPERINGS = {
    "second row of a criterion": (twice(SMOKE), reseal_steps, r"has \d+ entries, the records give"),
    "criteria in another order": (edit(f"criteria/{SMOKE}.json", reverse_criteria), reseal_steps, "recomputed"),
    "a criterion left out": (
        edit(f"criteria/{SMOKE}.json", lambda r: r["criteria"].pop()), reseal_steps, "entries"),
    "a page with a script": (
        add("index.html", "<script>alert(1)</script>"), reseal_steps, "index.html: does not belong"),
    "a handshake of nobody": (add(f"{S}/handshake-99.json"), reseal_steps, "handshake-99.json"),
    "a log of nobody": (add(f"logs/{SMOKE}/actor-7.log", "x\n"), reseal, "actor-7.log: does not belong"),
    "a picture of something else": (add("media/proof.png", "x"), reseal_steps, "proof.png: does not belong"),
    "a folder beside": (add("waiver/granted.txt", "x"), reseal_steps, "granted.txt: does not belong"),
    "an emptied log": (add(LEARNER_LOG, ""), reseal_steps, "learner.log: does not name the process"),
    "a log of another process": (
        add(LEARNER_LOG, "INFO ready\n"), reseal_steps, "learner.log: does not name the process"),
    "a deleted log": (remove(LEARNER_LOG), reseal_steps, "learner.log: is missing"),
    "an emptied refusal": (add(REFUSAL_LOG, ""), reseal_steps, "does not name the fields"),
    "a deleted refusal": (remove(REFUSAL_LOG), reseal_steps, "is missing"),
    "a deleted video": (remove(VIDEO), reseal_steps, "rollout.mp4"),
    "another readable config": (another_learner_config, rewrite, "not the config of config/canonical.json"),
    "another layout of the config": (
        replace("config/train_config.json", "{\n", "{\n\n"), rewrite, "not in the layout"),
    "another command": (replace("commands.txt", "pirl.learner", "pirl.liar"), reseal_steps, "commands.txt"),
    "commands emptied": (add("commands.txt", ""), reseal_steps, "commands.txt"),
    "another gate command": (
        edit(RUN, set_to(command=["pirl", "gate", "--profile", "libero"])), rewrite, "--profile libero"),
    "year 1999": (in_year("1999"), rewrite, "started_utc, ended_utc"),
    "year 2999": (in_year("2999"), rewrite, "started_utc, ended_utc"),
    "an end before the steps'": (
        edit(RUN, set_to(ended_utc="2026-11-02T00:00:00Z")), rewrite, "started_utc, ended_utc"),
    "a step at another time": (
        edit(RUN, lambda r: r["steps"][SMOKE].update(started_utc="2026-11-02T00:00:00Z")), rewrite, "time"),
    "a step that never ended": (edit(RUN, lambda r: r["steps"][SMOKE].update(ended_utc=None)), rewrite, "time"),
    "launched by somebody else": (edit(RUN, set_to(launched_by="direct")), reseal, "before is"),
    "launched by a stranger": (edit(RUN, set_to(launched_by="cron")), rewrite, "launched_by"),
    "a commit of zeros": (edit(SOURCE, set_to(git_commit="0" * 40)), rewrite, "git_commit"),
    "another commit": (edit(SOURCE, set_to(git_commit="ab" * 20)), reseal, "before is"),
    "a short commit": (edit(SOURCE, set_to(git_commit="ab" * 19)), rewrite, "git_commit"),
    "another machine": (
        edit("metadata/environment.json", set_to(cpu="better")), reseal, "before is"),
    "another nonce": (edit(RUN, set_to(nonce="ab" * 16)), reseal, "nonce is"),
    "a key twice in a row": (
        replace(f"{S}/episodes.jsonl", '"decisions": ', '"decisions": 1, "decisions": '), rewrite, "twice"),
    "a key twice in a record": (
        replace(f"{S}/leftovers.json", '"ports": []', '"ports": [], "ports": []'), rewrite, "twice"),
    "a key twice in the manifest": (
        replace("manifest.json", '"files": {', '"files": {}, "files": {'), as_it_is, "twice"),
    "an extra key in a record": (edit(f"{M}/host.json", grant), rewrite, "waiver"),
    "an extra key in a row": (edit_line(f"{M}/cases.jsonl", grant), rewrite, "waiver"),
    "an extra key in a metric row": (
        replace(ROWS, '{"format"', '{"waiver":1,"format"'), rewrite,
        "a row with the keys"),
    "an extra key in the run": (edit(RUN, grant), reseal, "waiver"),
    "an extra key in the verdict": (edit("verdict.json", grant), reseal_steps, "waiver"),
    "an extra key in the manifest": (edit("manifest.json", grant), as_it_is, "waiver"),
    "an extra key in the statement": (edit("statement.json", grant), as_it_is, "waiver"),
    "an extra key in the policy": (edit("policy.json", grant), reseal, "waiver"),
    "an extra key in a seal": (edit(f"{S}/step.json", grant), reseal, "waiver"),
    "rows in another order": (swap_rows(f"{M}/cases.jsonl"), reseal, "not what mismatch-negative was sealed with"),
    "metric rows in another order": (swap_rows(f"{S}/metrics-learner.jsonl"), rewrite, "do not rise"),
    "another layout of a record": (replace(f"{M}/host.json", "\n}", "\n }"), rewrite, "not in the layout"),
    "an integer for a float": (replace(f"{S}/episodes.jsonl", '"reward": 1.0', '"reward": 1'), rewrite, "reward"),
    "a record of no step": (add(f"{S}/notes.json"), rewrite, "no record of this step"),
    "a step of another variant": (edit(f"{M}/step.json", set_to(variant="flow-noise")), rewrite, "variant is"),
    "a step of another config": (edit(f"{M}/step.json", set_to(config_hash="0" * 64)), rewrite, "config_hash is"),
    "a step of another gate": (edit(f"{M}/step.json", set_to(nonce="0" * 32)), rewrite, "nonce is"),
    "a step under another name": (edit(f"{M}/step.json", set_to(step=RESUME)), rewrite, "step is"),
    "a step that began before": (edit(f"{M}/step.json", set_to(started_s=-5.0)), rewrite, "in order"),
    **{
        f"line endings of {name}": (line_endings(name), hide, re.escape(name))
        for name, hide in {
            "report.md": reseal_steps, "report.html": reseal_steps, "verdict.json": reseal_steps,
            "policy.json": reseal, "commands.txt": reseal_steps, "config/train_config.json": rewrite,
            "statement.json": as_it_is, "manifest.json": as_it_is, RUN: rewrite,
        }.items()
    },
    "a criterion without its text": (
        edit(f"criteria/{SMOKE}.json", lambda r: r["criteria"][0].pop("detail")), reseal_steps,
        "report.html: .*detail"),
    "a step as text": (
        replace(ROWS, '"step":1,', '"step":"1",'), rewrite, "learner.jsonl: not in"),
    "a step between two": (
        replace(ROWS, '"step":1,', '"step":1.7,'), rewrite, "learner.jsonl: not in"),
    "a version that is true": (
        replace(ROWS, '"version":1,', '"version":true,'), rewrite, "learner.jsonl: not in"),
    "an integer for a metric": (
        replace(ROWS, '"rollout/episodes":8.0', '"rollout/episodes":8'), rewrite,
        "learner.jsonl: not in"),
    "a time that is no number": (
        replace(ROWS, '"elapsed_s":5.0', '"elapsed_s":"NaN"'), rewrite, "not JSON compliant"),
    "a profile asked for twice": (
        edit(RUN, lambda r: r["command"].insert(2, "--profile=libero")), rewrite, "command: --profile"),
    "an error of a step that ran to its end": (
        edit(RUN, lambda r: r["steps"][SMOKE].update(error="oops")), rewrite, "steps is missing"),
    "steps after one that was stopped": (
        edit(RUN, lambda r: r["steps"][SMOKE].update(stopped_by="X")), rewrite, "steps is missing"),
    "a signer that is none": (edit(RUN, set_to(signed_by="the board")), rewrite, "signed_by is missing"),
    "no memory": (edit("metadata/environment.json", set_to(memory_gib=-1.0)), rewrite, "cores, memory"),
    "more cores than there are": (
        edit("metadata/environment.json", set_to(cpu_usable=4096, cpu_count=2)), rewrite, "cores, memory"),
    "a time with other digits": (edit(RUN, lambda r: r.update(
        started_utc=r["started_utc"].replace("2026", "\u0662\u0660\u0662\u0666"))), rewrite, "is not a time"),
    "an end long after": (edit(RUN, lambda r: r.update(
        ended_utc=later(r["ended_utc"]))), rewrite, "ended_utc is missing"),
    "a folder without a file": (folder("waiver"), reseal_steps, "waiver: a folder without a file"),
    "an actor more": (another_actor, reseal_steps, "handshake-1.json: does not belong"),
    "a picture that is none": (add("media/ratio.png", "<script>"), rewrite, "ratio.png: not a PNG"),
    "a picture with something behind it": (more_bytes(POSTER), rewrite, "rollout.png: not a PNG"),
    "a report with more": (replace("report.md", "PASSED", "PASSED!"), reseal_steps, "report.md"),
    "a page with more": (replace("report.html", "PASSED", "PASSED!"), reseal_steps, "report.html"),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERINGS)
def test_a_tampered_bundle_is_refused_with_the_reason(bundle, name):
    tamper, hide, reason = TAMPERINGS[name]
    tamper(bundle)
    hide(bundle)
    assert re.search(reason, found(bundle)), found(bundle)


@pytest.mark.parametrize("name", TAMPERINGS)
def test_a_tampered_bundle_is_refused_when_nothing_was_hidden(bundle, name):
    TAMPERINGS[name][0](bundle)
    assert not verify_bundle(bundle).is_accepted


@pytest.fixture(scope="session")
def of_the_other_variant(tmp_path_factory):
    return build_bundle(tmp_path_factory.mktemp("other"), Story(variant="flow-noise")).folder


@pytest.mark.parametrize("steps", [STEPS[2:], STEPS[3:], STEPS[1:2]])
@pytest.mark.parametrize("hide", [reseal, reseal_steps, rewrite])
def test_steps_of_another_gate_are_refused(bundle, of_the_other_variant, steps, hide):
    for step in steps:
        for folder in ("raw", "logs"):
            shutil.rmtree(bundle / folder / step)
            shutil.copytree(of_the_other_variant / folder / step, bundle / folder / step)
        criteria = f"criteria/{step}.json"
        shutil.copy(of_the_other_variant / criteria, bundle / criteria)
    hide(bundle)
    assert f"raw/{steps[0]}/step.json" in found(bundle)


def test_a_bundle_of_the_format_before_is_named_as_such(bundle):
    edit("manifest.json", set_to(format_version=1))(bundle)
    report = verify_bundle(bundle)
    assert (report.verdict, report.exit_code) == (None, 1)
    assert "of format 1 and this verifier reads format 2 only" in report.to_text()


RECORDS = sorted(
    f"raw/{step}/{name}"
    for step, names in {
        VALIDATE: ("config.json", "profile.json", "settings.json", "inputs.json", "split.json",
                   "first_look.json", "rules.jsonl", "invalid.jsonl", "contract.jsonl", "packages.jsonl"),
        SMOKE: ("processes.jsonl", "handshake-0.json", "counters-learner.json", "counters-actor-0.json",
                "tensors.json", "episodes.jsonl", "video.json", "leftovers.json"),
        RESUME: ("kill.json", "digests.json", "checkpoint.json", "damaged.jsonl", "save_kills.jsonl",
                 "stock.json", "processes.jsonl"),
        MISMATCH: ("control.json", "host.json", "cases.jsonl", "teeth.jsonl"),
    }.items()
    for name in names
)  # fmt: skip


def changed(value):
    """Another value of the same type, or of another one."""
    if isinstance(value, bool):
        return st.just(not value)
    if isinstance(value, int):
        return st.integers(-9, 10**6).filter(lambda other: other != value)
    if isinstance(value, float):
        return st.floats(-1e6, 1e6).filter(lambda other: other != value)
    if isinstance(value, str):
        return st.text("abc-/0123456789", max_size=20).filter(lambda other: other != value)
    return st.sampled_from(["x", 7, 1.5, {"a": 1}, [1]])


@pytest.fixture(scope="session")
def copy_to_spoil(good_bundle, tmp_path_factory):
    """One copy for many examples; each restores what it changed."""
    return shutil.copytree(good_bundle.folder, tmp_path_factory.mktemp("spoilt") / "bundle")


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_no_field_of_a_record_can_be_changed_unseen(copy_to_spoil, data):
    """Whoever changes a field and hides it by new digests of the files is refused."""
    path = copy_to_spoil / data.draw(st.sampled_from(RECORDS))
    before = path.read_text()
    is_lines = path.suffix == ".jsonl"
    records = [json.loads(text) for text in (before.splitlines() if is_lines else [before])]
    record = data.draw(st.sampled_from(records))
    *above, key = data.draw(st.sampled_from([place for place in leaves(record) if place]))
    node = record
    for part in above:
        node = node[part]
    node[key] = data.draw(changed(node[key]))
    path.write_text("".join((dump_line if is_lines else dump_json)(one) for one in records))
    try:
        # Manifest and statement hold no typed record: new digests there change nothing for these two.
        assert verify_ties.chain(copy_to_spoil) or verify_checks.records(copy_to_spoil)
    finally:
        path.write_text(before)
