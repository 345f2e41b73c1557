"""How an auditor tries to break a bundle, and the reason each attempt ends with."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from evidence_builders import Story, build_bundle

from pirl.errors import UsageError
from pirl.evidence import verify_checks
from pirl.evidence.bundle import seal
from pirl.evidence.criteria import STEPS
from pirl.evidence.judge import MALFORMED, judge_gate
from pirl.evidence.raw import RawRecords, file_sha256
from pirl.evidence.statement import MANIFEST, STATEMENT, build_manifest, dump_json
from pirl.evidence.verify import main, verify_bundle
from pirl.evidence.verify_checks import Expected


def load(bundle, name):
    return json.loads((bundle / name).read_text())


def store(bundle, name, value):
    (bundle / name).write_text(dump_json(value))


def reseal(bundle):
    """What an attacker does who knows the format: new digests for everything."""
    store(bundle, MANIFEST, build_manifest(bundle))
    statement = load(bundle, STATEMENT)
    statement["subject"][0]["digest"]["sha256"] = file_sha256(bundle / MANIFEST)
    store(bundle, STATEMENT, statement)


def found(bundle, **expected):
    """Names of the checks that object."""
    report = verify_bundle(bundle, **expected)
    assert report.exit_code == (0 if report.is_accepted else 1)
    return {problem.check for problem in report.problems}


def criterion(record, name):
    return next(c for c in record["criteria"] if c["name"] == name)


def spoil_parity(bundle):
    """Raw records of a run whose replay does not match."""
    path = bundle / "raw" / "smoke-run" / "metrics-learner.jsonl"
    path.write_text(
        path.read_text().replace('"update/parity_max_abs": 0.0', '"update/parity_max_abs": 0.05')
    )


def test_good_bundle_is_accepted_wherever_it_lies(bundle):
    report = verify_bundle(bundle)
    assert report.reasons == []
    assert report.is_accepted
    assert report.verdict.label == "passed (fallback: embedded)"


def test_one_altered_byte_in_any_file_is_found(bundle):
    manifest = load(bundle, MANIFEST)
    for name in manifest["files"]:
        path = bundle / name
        content = path.read_bytes()
        middle = len(content) // 2
        altered = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes(altered)
        assert [p.where for p in verify_checks.manifest(bundle)] == [name]
        path.write_bytes(content)


@pytest.mark.parametrize("name", [MANIFEST, STATEMENT])
def test_altered_byte_in_the_manifest_or_statement_is_found(bundle, name):
    with (bundle / name).open("a") as file:
        file.write(" ")
    assert "statement" in found(bundle)


def test_altered_log_makes_the_command_exit_1_with_the_reason(bundle, capsys):
    with (bundle / "logs/smoke-run/learner.log").open("a") as file:
        file.write("x")
    assert main([str(bundle)]) == 1
    out = capsys.readouterr().out
    assert out.startswith("NOT ACCEPTED")
    assert "logs/smoke-run/learner.log" in out


def test_missing_file_is_found(bundle):
    (bundle / "logs/smoke-run/actor-0.log").unlink()
    assert found(bundle) == {"manifest"}


def test_extra_file_is_found(bundle):
    (bundle / "raw" / "smoke-run" / "more.json").write_text("{}")
    assert found(bundle) == {"manifest"}


def test_file_of_an_unknown_type_is_found_even_when_listed(bundle):
    (bundle / "raw" / "weights.pkl").write_bytes(b"x")
    reseal(bundle)
    assert found(bundle) == {"content"}


def test_loosened_threshold_is_found_even_when_resealed(bundle):
    record = load(bundle, "criteria/smoke-run.json")
    criterion(record, "smoke/parity_max_abs")["threshold"] = 10.0
    store(bundle, "criteria/smoke-run.json", record)
    reseal(bundle)
    report = verify_bundle(bundle)
    assert "threshold = 10.0, code says 0.001" in "".join(report.reasons)
    assert not report.is_accepted


def test_loosened_policy_cannot_save_a_failed_run(bundle):
    spoil_parity(bundle)
    for name in ("policy.json", "criteria/smoke-run.json"):
        record = load(bundle, name)
        entry = criterion(record, "smoke/parity_max_abs")
        entry["threshold"] = 1.0
        store(bundle, name, record)
    reseal(bundle)
    report = verify_bundle(bundle)
    assert {"policy", "criteria"} <= {problem.check for problem in report.problems}
    assert report.verdict.label == "failed"


def test_edited_measured_value_is_found_even_when_resealed(bundle):
    record = load(bundle, "criteria/smoke-run.json")
    criterion(record, "smoke/versions_acted")["measured"] = 9
    store(bundle, "criteria/smoke-run.json", record)
    reseal(bundle)
    assert "criteria" in found(bundle)
    assert "measured = 9, recomputed 3" in "".join(verify_bundle(bundle).reasons)


def test_edited_raw_record_is_found_even_when_resealed(bundle):
    spoil_parity(bundle)
    reseal(bundle)
    report = verify_bundle(bundle)
    assert "criteria" in {problem.check for problem in report.problems}
    assert report.verdict.label == "failed"


@pytest.mark.parametrize("keep", [0, -1])
def test_missing_criterion_is_found_even_when_resealed(bundle, keep):
    record = load(bundle, "criteria/mismatch-negative.json")
    record["criteria"].pop(keep)
    store(bundle, "criteria/mismatch-negative.json", record)
    reseal(bundle)
    assert "criteria" in found(bundle)


def test_invented_criterion_is_found(bundle):
    record = load(bundle, "criteria/smoke-run.json")
    record["criteria"].append(record["criteria"][0] | {"name": "smoke/everything_is_fine"})
    store(bundle, "criteria/smoke-run.json", record)
    reseal(bundle)
    assert "criteria" in found(bundle)


def test_edited_verdict_is_found_even_when_resealed(bundle):
    record = load(bundle, "verdict.json")
    record["criteria"]["total"] = 99
    store(bundle, "verdict.json", record)
    reseal(bundle)
    assert "verdict" in found(bundle)


def test_edited_success_count_is_found_even_when_resealed(bundle):
    record = load(bundle, "verdict.json")
    record["episodes"][0]["successes"] += 1
    store(bundle, "verdict.json", record)
    reseal(bundle)
    assert "verdict" in found(bundle)


def test_fallback_shown_as_libero_is_found_even_when_resealed(bundle):
    for name in ("verdict.json", STATEMENT):
        text = (bundle / name).read_text()
        text = text.replace("passed (fallback: embedded)", "passed").replace(
            '"embedded"', '"libero"'
        )
        (bundle / name).write_text(text)
    for name in ("report.md", "report.html"):
        path = bundle / name
        path.write_text(path.read_text().replace(" (fallback: embedded)", ""))
    reseal(bundle)
    assert {"profile", "report", "statement"} <= found(bundle)
    assert "shown as profile 'libero'" in "".join(verify_bundle(bundle).reasons)


def test_fallback_whose_records_claim_libero_fails(bundle):
    path = bundle / "raw/validate-config/profile.json"
    path.write_text(path.read_text().replace('"embedded"', '"libero"'))
    reseal(bundle)
    assert verify_bundle(bundle).verdict.label == "failed"


@pytest.mark.parametrize("name", ["report.md", "report.html"])
def test_edited_report_is_found_even_when_resealed(bundle, name):
    path = bundle / name
    path.write_text(path.read_text().replace("15", "16", 1))
    reseal(bundle)
    assert found(bundle) == {"report"}


def test_edited_statement_is_found(bundle):
    statement = load(bundle, STATEMENT)
    statement["predicate"]["source"]["gitCommit"] = "0" * 40
    store(bundle, STATEMENT, statement)
    assert found(bundle) == {"statement"}


@pytest.mark.parametrize(
    ("expected", "accepted"),
    [
        ({"expect_commit": "f" * 40}, False),
        ({"expect_config_hash": "0" * 64}, False),
        ({"expect_nonce": "0" * 32}, False),
        ({"expect_digest": "0" * 64}, False),
        ({"expect_commit": ""}, False),
        ({"expect_commit": "OWN"}, True),
        ({"expect_commit": "OWN SHORT"}, True),
        ({"expect_nonce": "OWN"}, True),
        ({"expect_digest": "OWN"}, True),
        ({"expect_config_hash": "OWN"}, True),
    ],
)
def test_replayed_bundle_is_found_when_the_caller_knows_the_run(good_bundle, expected, accepted):
    bundle = good_bundle.folder
    own = {
        "expect_commit": load(bundle, "metadata/source.json")["git_commit"],
        "expect_nonce": load(bundle, "metadata/run.json")["nonce"],
        "expect_digest": file_sha256(bundle / MANIFEST),
        "expect_config_hash": load(bundle, "verdict.json")["config_hash"],
    }
    values = dict.fromkeys(own) | {
        key: {"OWN": own[key], "OWN SHORT": own[key][:8]}.get(value, value)
        for key, value in expected.items()
    }
    known = Expected(**{key.removeprefix("expect_"): value for key, value in values.items()})
    problems = verify_checks.staleness(bundle, good_bundle.verdict, known)
    assert (problems == []) is accepted


def test_replayed_bundle_makes_the_command_exit_1(bundle, capsys):
    assert main([str(bundle), "--expect-commit", "f" * 40, "--expect-nonce", "0" * 32]) == 1
    out = capsys.readouterr().out
    assert "stale: git commit" in out
    assert "stale: nonce" in out


def test_complete_forgery_passes_and_is_found_by_the_noted_digest(good_bundle, bundle):
    # The written limit of an unsigned bundle: consistent raw records cannot be told from true ones.
    path = bundle / "raw/smoke-run/counters-learner.json"
    record = json.loads(path.read_text())
    record["dropped"]["stale"] += 0
    record["note"] = "forged"
    path.write_text(json.dumps(record))
    seal(bundle, judge_gate(RawRecords(bundle)))
    assert verify_bundle(bundle).is_accepted
    assert found(bundle, expect_digest=good_bundle.digest) == {"stale"}


@pytest.mark.parametrize(
    "text",
    [
        "token: hf_" + "a1B2" * 9,
        "config at /home/somebody/run/train_config.json",
        "mail to some.body@example.org",
        "-----BEGIN RSA PRIVATE KEY-----",
        "runtime.token=9f86d081884c7d65",
    ],
)
def test_secret_or_machine_path_is_found(bundle, text):
    with (bundle / "logs/smoke-run/learner.log").open("a") as file:
        file.write(text + "\n")
    problems = verify_checks.content(bundle)
    assert {(p.check, p.where) for p in problems} == {("leak", "logs/smoke-run/learner.log")}


def test_leak_makes_a_resealed_bundle_unacceptable(bundle):
    with (bundle / "logs/smoke-run/learner.log").open("a") as file:
        file.write("at /home/somebody/x\n")
    reseal(bundle)
    assert found(bundle) == {"leak"}


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("run", "gate", "other"),
        ("run", "bundle_format", 0),
        ("run", "nonce", ""),
        ("run", "nonce", "f" * 31),
        ("run", "nonce", "g" * 32),
        ("run", "nonce", 7),
        ("run", "launched_by", "somebody"),
        ("run", "started_utc", "2999-01-01T00:00:00Z"),
        ("run", "ended_utc", None),
        ("run", "policy_digest", "0" * 64),
        ("run", "steps", {}),
        ("run", "steps", {"another-step": {}}),
        ("source", "git_commit", "unknown"),
        ("source", "git_commit", "f" * 39),
        ("source", "git_dirty", None),
        ("source", "lock_files", {}),
        ("environment", "packages", {}),
        ("environment", "python", ""),
    ],
)
def test_missing_provenance_is_found(bundle, name, key, value):
    record = load(bundle, f"metadata/{name}.json")
    record[key] = value
    store(bundle, f"metadata/{name}.json", record)
    try:
        problems = verify_checks.metadata(bundle)
    except MALFORMED:
        return
    assert [p.where for p in problems] == [f"metadata/{name}.json"]


def test_a_bundle_without_its_commands_is_found(bundle):
    (bundle / "commands.txt").write_text(" \n")
    (problem,) = verify_checks.metadata(bundle)
    assert str(problem) == "metadata: commands.txt: commands is missing or cannot be"


def test_a_run_of_no_time_and_of_every_step_is_a_run(bundle):
    record = load(bundle, "metadata/run.json")
    steps = {step: {} for step in STEPS}
    store(
        bundle, "metadata/run.json", record | {"ended_utc": record["started_utc"], "steps": steps}
    )
    assert verify_checks.metadata(bundle) == []


@pytest.mark.parametrize(("digest", "objects"), [("e" * 64, False), ("e" * 63, True)])
def test_a_dirty_tree_needs_the_digest_of_its_patch(bundle, digest, objects):
    record = load(bundle, "metadata/source.json")
    store(bundle, "metadata/source.json", record | {"git_dirty": True, "patch_sha256": digest})
    assert bool(verify_checks.metadata(bundle)) is objects


def test_dirty_tree_without_patch_digest_is_found(bundle):
    record = load(bundle, "metadata/source.json")
    store(bundle, "metadata/source.json", record | {"git_dirty": True, "patch_sha256": None})
    reseal(bundle)
    assert {"metadata", "statement"} <= found(bundle)


def test_link_out_of_the_bundle_is_not_followed(bundle, tmp_path):
    (tmp_path / "secret.txt").write_text("x")
    (bundle / "raw" / "link.txt").symlink_to(tmp_path / "secret.txt")
    report = verify_bundle(bundle)
    assert (report.verdict, report.exit_code) == (None, 1)


@pytest.mark.parametrize("kind", ["link", "pipe", "large"])
def test_what_is_no_plain_file_of_bounded_size_is_not_read(bundle, tmp_path, kind):
    path = bundle / "raw" / "odd.json"
    if kind == "link":
        path.symlink_to(bundle / "verdict.json")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        with path.open("wb") as file:
            file.truncate(256 * 2**20 + 1)
    (problem,) = verify_checks.unreadable(bundle)
    assert (problem.check, problem.where) == ("bundle", "raw/odd.json")
    assert verify_bundle(bundle).exit_code == 1


def test_the_largest_file_is_256_mib(bundle):
    with (bundle / "raw" / "large.json").open("wb") as file:
        file.truncate(256 * 2**20)
    assert verify_checks.unreadable(bundle) == []


def test_a_folder_without_manifest_is_no_bundle(bundle):
    (bundle / MANIFEST).unlink()
    assert [p.check for p in verify_checks.unreadable(bundle)] == ["manifest"]
    (problem,) = verify_checks.unreadable(bundle / "nowhere")
    assert str(problem) == "bundle: nowhere: not a folder"


def test_pipe_in_the_folder_does_not_hang_the_verifier(bundle):
    os.mkfifo(bundle / "raw" / "pipe.json")
    assert verify_bundle(bundle).exit_code == 1


def test_a_problem_with_the_manifest_says_file_and_fault(bundle):
    (bundle / "verdict.json").unlink()
    (problem,) = verify_checks.manifest(bundle)
    assert problem.where == "verdict.json"
    assert problem.what
    assert ": " not in problem.where


def test_every_difference_of_a_criterion_is_named(good_bundle, bundle):
    record = load(bundle, "criteria/smoke-run.json")
    entry = criterion(record, "smoke/versions_acted")
    entry |= {"measured": 9, "unit": "apples", "note": "more"}
    del entry["detail"]
    store(bundle, "criteria/smoke-run.json", record)
    problems = verify_checks.criteria(bundle, good_bundle.verdict)
    assert {p.where for p in problems} == {"criteria/smoke-run.json"}
    keys = [p.what.split(": ")[1].split(" = ")[0] for p in problems]
    assert keys == ["detail", "measured", "note", "unit"]
    assert all("recomputed" in p.what for p in problems)


@pytest.mark.parametrize("key", ["threshold", "comparator"])
def test_a_changed_rule_is_told_from_a_changed_measurement(good_bundle, bundle, key):
    record = load(bundle, "criteria/smoke-run.json")
    criterion(record, "smoke/versions_acted")[key] = "other"
    store(bundle, "criteria/smoke-run.json", record)
    (problem,) = verify_checks.criteria(bundle, good_bundle.verdict)
    assert "code says" in problem.what


def test_a_missing_and_an_invented_criterion_are_both_named(good_bundle, bundle):
    record = load(bundle, "criteria/smoke-run.json")
    criterion(record, "smoke/versions_acted")["name"] = "smoke/fine"
    criterion(record, "smoke/parity_max_abs")["threshold"] = 7
    store(bundle, "criteria/smoke-run.json", record)
    said = {p.what for p in verify_checks.criteria(bundle, good_bundle.verdict)}
    assert {"smoke/fine is not a criterion", "smoke/versions_acted is missing"} < said
    assert len(said) == 3


def test_true_is_not_one(good_bundle, bundle):
    record = load(bundle, "verdict.json")
    record["policy_version"] = float(record["policy_version"])
    store(bundle, "verdict.json", record)
    (problem,) = verify_checks.recorded_verdict(bundle, good_bundle.verdict)
    assert "policy_version" in problem.what


def test_keys_added_to_and_missing_from_a_verdict_are_found(good_bundle, bundle):
    record = load(bundle, "verdict.json")
    del record["claim"]
    store(bundle, "verdict.json", record | {"more": 1})
    problems = verify_checks.recorded_verdict(bundle, good_bundle.verdict)
    assert [p.what.split()[0] for p in problems] == ["claim", "more"]


def test_reordered_keys_are_no_difference_but_in_the_statement(good_bundle, bundle):
    record = load(bundle, "verdict.json")
    shuffled = dict(reversed(record.items()))
    shuffled["steps"] = dict(reversed(record["steps"].items()))
    (bundle / "verdict.json").write_text(json.dumps(shuffled))
    assert verify_checks.recorded_verdict(bundle, good_bundle.verdict) == []
    statement = load(bundle, STATEMENT)
    (bundle / STATEMENT).write_text(json.dumps(statement))
    (problem,) = verify_checks.statement(bundle, good_bundle.verdict)
    assert problem.what == "layout differs from what the bundle gives"


def test_what_differs_in_a_statement_is_named(good_bundle, bundle):
    statement = load(bundle, STATEMENT)
    del statement["predicateType"]
    store(bundle, STATEMENT, statement | {"more": 1})
    (problem,) = verify_checks.statement(bundle, good_bundle.verdict)
    assert problem.what.startswith("more, predicateType differs")


def test_each_report_that_was_edited_is_named(bundle):
    with (bundle / "report.html").open("a") as file:
        file.write("x")
    assert [p.where for p in verify_checks.reports(bundle)] == ["report.html"]


def test_a_policy_of_other_code_is_named_with_both_versions(bundle):
    assert verify_checks.policy(bundle) == []
    store(bundle, "policy.json", {"policy_version": 77})
    (problem,) = verify_checks.policy(bundle)
    assert "bundle: version 77, verifier: version" in problem.what


@pytest.mark.parametrize(("key", "value"), [("profile", "libero"), ("label", "passed")])
def test_profile_and_label_must_both_be_shown(good_bundle, bundle, key, value):
    record = load(bundle, "verdict.json")
    store(bundle, "verdict.json", record | {key: value})
    (problem,) = verify_checks.profile(bundle, good_bundle.verdict)
    assert repr(value) in problem.what


@pytest.mark.parametrize(("count", "objects"), [(6, True), (7, False)])
def test_a_commit_is_named_by_seven_characters_in_either_case(good_bundle, count, objects):
    commit = load(good_bundle.folder, "metadata/source.json")["git_commit"][:count].upper()
    known = Expected(commit=commit, config_hash=None, nonce=None, digest=None)
    problems = verify_checks.staleness(good_bundle.folder, good_bundle.verdict, known)
    assert bool(problems) is objects


def test_a_file_of_known_type_is_no_problem_whatever_its_bytes(bundle):
    (bundle / "raw" / "clip.mp4").write_bytes(b"\xff/home/somebody/x")
    assert verify_checks.content(bundle) == []


def test_manifest_that_climbs_out_is_refused(bundle):
    record = load(bundle, MANIFEST)
    record["files"]["../outside.txt"] = {"size": 1, "sha256": "0" * 64}
    store(bundle, MANIFEST, record)
    assert "not a path inside the bundle" in "".join(verify_bundle(bundle).reasons)


@pytest.mark.parametrize(
    "name", ["verdict.json", "metadata/run.json", "criteria/smoke-run.json", MANIFEST, STATEMENT]
)
def test_unreadable_file_is_a_reason_and_never_a_crash(bundle, name):
    for content in (b"\xff", b'{"criteria": [1]}'):
        (bundle / name).write_bytes(content)
        assert verify_bundle(bundle).exit_code == 1


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_folder_that_is_no_bundle_is_not_accepted(tmp_path, folder):
    report = verify_bundle(tmp_path / folder)
    assert (report.verdict, report.exit_code) == (None, 1)


def test_step_that_did_not_run_is_shown_and_not_accepted(tmp_path):
    built = build_bundle(tmp_path, Story(skip_steps=("resume-roundtrip",)))
    report = verify_bundle(built.folder)
    assert built.verdict.label == "not run"
    assert (report.is_intact, report.exit_code) == (True, 1)
    assert built.verdict.steps["smoke-run"] == "passed"
    assert "NOT RUN" in (built.folder / "report.md").read_text()


def test_failed_gate_is_intact_and_exits_1_with_the_criterion(tmp_path, capsys):
    cases = {"smoke-run/leftovers.json": {
        "processes": ["p2"], "ports": [], "shared_memory": [],
        "looked_for": {"processes": ["p2"], "ports": ["a"], "shared_memory": ["b"]},
    }}  # fmt: skip
    built = build_bundle(tmp_path, Story(overrides=cases))
    assert main([str(built.folder), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["intact"], report["accepted"], report["verdict"]) == (True, False, "failed")
    assert [c["name"] for c in report["not_passed"]] == ["smoke/processes_left"]


def test_libero_pass_is_shown_without_fallback(tmp_path):
    built = build_bundle(tmp_path, Story(profile="libero"))
    assert built.verdict.label == "passed"
    assert verify_bundle(built.folder).is_accepted
    assert "# Phase-2 gate: PASSED\n" in (built.folder / "report.md").read_text()


def test_json_of_an_accepted_bundle_is_complete(bundle, capsys):
    assert main([str(bundle), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["accepted"]
    assert report["label"] == "passed (fallback: embedded)"
    assert report["recomputed"]["criteria"]["total"] == report["recomputed"]["criteria"]["passed"]


def test_wrong_usage_exits_2(capsys):
    with pytest.raises(UsageError, match="bundle is missing"):
        main([])


def test_verifier_needs_neither_torch_nor_a_tracker():
    code = (
        "import sys, pirl.evidence.verify, pirl.evidence.mlflow_sink; "
        "bad = {'torch', 'mlflow', 'lerobot', 'matplotlib', 'prefect'} & set(sys.modules); "
        "sys.exit(f'imported {bad}' if bad else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
