"""What the verifier says of a bundle, and how it is told which run the bundle must be about."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bundle_builder import Story, build_bundle
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from tampering import edit, edit_line, load, reseal, reseal_steps, rewrite, store

from pirl.audit import verify_checks, verify_ties
from pirl.audit.bundle import unfit_files
from pirl.audit.findings import Expected
from pirl.audit.judge import MALFORMED, judge_gate
from pirl.audit.raw import RawRecords
from pirl.audit.records import files
from pirl.audit.signature import load_private_key, load_public_key
from pirl.audit.statement import MANIFEST, STATEMENT
from pirl.audit.verify import main, verify_bundle
from pirl.audit.verify_checks import record_problem
from pirl.errors import ConfigError, UsageError
from pirl.journal.fields import file_sha256

CRITERIA = "criteria/smoke-run.json"


def found(bundle, **expected):
    """Names of the checks that object."""
    report = verify_bundle(bundle, **expected)
    assert report.exit_code == (0 if report.is_accepted else 1)
    return {problem.check for problem in report.problems}


def criterion(record, name):
    return next(c for c in record["criteria"] if c["name"] == name)


def spoil_parity(bundle):
    """Raw records of a run whose replay does not match."""
    for name in ("smoke-run/metrics-learner.jsonl", "resume-roundtrip/metrics-uninterrupted.jsonl"):
        path = bundle / "raw" / name
        path.write_text(
            path.read_text().replace('"update/parity_max_abs":0.0', '"update/parity_max_abs":0.05')
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


def test_file_of_an_unknown_type_is_found_even_when_listed(bundle):
    (bundle / "raw" / "weights.pkl").write_bytes(b"x")
    reseal(bundle)
    assert {"content", "files"} <= found(bundle)


def test_loosened_threshold_is_found_even_when_resealed(bundle):
    edit(CRITERIA, lambda r: criterion(r, "smoke/parity_max_abs").update(threshold=10.0))(bundle)
    reseal(bundle)
    report = verify_bundle(bundle)
    assert "smoke/parity_max_abs.threshold = 10.0, recomputed 0.001" in "".join(report.reasons)
    assert not report.is_accepted


def test_loosened_policy_cannot_save_a_failed_run(bundle):
    spoil_parity(bundle)
    for name in ("policy.json", CRITERIA):
        edit(name, lambda r: criterion(r, "smoke/parity_max_abs").update(threshold=1.0))(bundle)
    reseal_steps(bundle)
    report = verify_bundle(bundle)
    assert {"policy.json", CRITERIA} <= {problem.where for problem in report.problems}
    assert report.verdict.label == "failed"


def test_edited_measured_value_is_named_with_the_recomputed_one(bundle):
    edit(CRITERIA, lambda r: criterion(r, "smoke/versions_acted").update(measured=9))(bundle)
    reseal(bundle)
    reasons = "".join(verify_bundle(bundle).reasons)
    assert "smoke/versions_acted.measured = 9, recomputed 5" in reasons


def test_rewritten_records_of_a_failed_run_are_a_failed_run(bundle):
    spoil_parity(bundle)
    rewrite(bundle)
    report = verify_bundle(bundle)
    assert (report.is_intact, report.verdict.label) == (True, "failed")


def test_fallback_shown_as_libero_is_found_even_when_resealed(bundle):
    for name in ("verdict.json", STATEMENT):
        text = (bundle / name).read_text()
        text = text.replace("passed (fallback: embedded)", "passed")
        (bundle / name).write_text(text.replace('"embedded"', '"libero"'))
    for name in ("report.md", "report.html"):
        path = bundle / name
        path.write_text(path.read_text().replace(" (fallback: embedded)", ""))
    reseal(bundle)
    assert {"derived", "report", "statement"} <= found(bundle)


def test_fallback_whose_records_claim_libero_fails(bundle):
    edit("raw/validate-config/profile.json", lambda r: r.update(profile="libero"))(bundle)
    reseal(bundle)
    assert verify_bundle(bundle).verdict.label == "failed"


OWN = {
    "expect_commit": lambda bundle: load(bundle, "metadata/source.json")["git_commit"],
    "expect_nonce": lambda bundle: load(bundle, "metadata/run.json")["nonce"],
    "expect_digest": lambda bundle: file_sha256(bundle / MANIFEST),
    "expect_config_hash": lambda bundle: load(bundle, "verdict.json")["config_hash"],
}


@pytest.mark.parametrize("name", OWN)
def test_replayed_bundle_is_found_when_the_caller_knows_the_run(good_bundle, name):
    def objects(value):
        known = Expected(**{name.removeprefix("expect_"): value})
        return verify_checks.staleness(good_bundle.folder, good_bundle.verdict, known) != []

    own = OWN[name](good_bundle.folder)
    assert [objects(v) for v in (own, own[:7], own[:8].upper())] == [False] * 3
    assert [objects(v) for v in ("0" * len(own), own[:6], "")] == [True] * 3


def test_replayed_bundle_makes_the_command_exit_1(bundle, capsys):
    assert main([str(bundle), "--expect-commit", "f" * 40, "--expect-nonce", "0" * 32]) == 1
    out = capsys.readouterr().out
    assert "stale: git commit" in out
    assert "stale: nonce" in out


def forge(bundle):
    """Consistent records of a run that never was."""
    edit_line("raw/smoke-run/processes.jsonl", lambda row: row.update(seconds=0.5), 1)(bundle)
    rewrite(bundle)


def test_complete_forgery_passes_and_is_found_by_the_noted_digest(good_bundle, bundle):
    # The written limit of an unsigned bundle: consistent raw records cannot be told from true ones.
    forge(bundle)
    assert verify_bundle(bundle).is_accepted
    assert found(bundle, expect_digest=good_bundle.digest) == {"stale"}


# Signatures


def keys(folder, name):
    """Paths of a new key pair."""
    private = Ed25519PrivateKey.generate()
    paths = folder / f"{name}.pem", folder / f"{name}.pub"
    paths[0].write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    paths[1].write_bytes(public)
    return paths


@pytest.fixture(scope="module")
def signed_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("signed")
    private, public = keys(folder, "own")
    return build_bundle(folder, Story(sign_with=private)).folder, public


@pytest.fixture
def signed(signed_once, tmp_path):
    """A signed bundle, its public key and somebody else's key pair."""
    built, public = signed_once
    return shutil.copytree(built, tmp_path / "signed"), public, keys(tmp_path, "other")


def test_a_signed_bundle_says_so_and_is_accepted_with_its_key(signed, capsys):
    bundle, public, _ = signed
    assert main([str(bundle), "--key", str(public)]) == 0
    assert "(checked)" in capsys.readouterr().out
    assert verify_bundle(bundle).signature.endswith("(not checked; --key checks it)")
    assert "by the key" in (bundle / "report.md").read_text()


def test_another_key_a_missing_signature_and_an_unsigned_bundle_are_refused(signed, bundle):
    own, public, (_, other) = signed
    assert found(own, key=other) == {"signature"}
    assert found(bundle, key=public) == {"signature"}
    assert "not signed" in verify_bundle(bundle).signature
    (own / "statement.sig").unlink()
    assert found(own) == {"signature"}


def test_a_forgery_of_a_signed_bundle_is_found_by_its_key(signed):
    bundle, public, _ = signed
    forge(bundle)
    assert found(bundle, key=public) == {"signature"}


def test_a_forger_with_a_key_of_his_own_is_not_the_signer(signed):
    bundle, public, (private, other) = signed
    from pirl.audit.bundle import seal
    from pirl.audit.signature import fingerprint

    signer = fingerprint(load_public_key(other))
    edit("metadata/run.json", lambda r: r.update(signed_by=signer))(bundle)
    rewrite(bundle)
    seal(bundle, judge_gate(RawRecords(bundle)), load_private_key(private))
    assert verify_bundle(bundle, key=other).is_accepted
    assert found(bundle, key=public) == {"signature"}


def test_a_file_that_is_no_key_is_an_error_and_no_verdict(bundle, tmp_path):
    (tmp_path / "key").write_text("x")
    with pytest.raises(ConfigError, match="--key"):
        verify_bundle(bundle, key=tmp_path / "key")


# Content, provenance, files


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
    problems = unfit_files(bundle)
    assert {(p.check, p.where) for p in problems} == {("leak", "logs/smoke-run/learner.log")}


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("run", "gate", "other"),
        ("run", "bundle_format", 0),
        ("run", "policy_version", "2"),
        ("run", "nonce", ""),
        ("run", "nonce", "f" * 32),
        ("run", "nonce", "ab" * 15 + "g"),
        ("run", "nonce", 7),
        ("run", "launched_by", "somebody"),
        ("run", "started_utc", "2999-01-01T00:00:00Z"),
        ("run", "started_utc", "yesterday"),
        ("run", "ended_utc", None),
        ("run", "policy_digest", "0" * 64),
        ("run", "steps", {}),
        ("run", "command", ["rm", "-r"]),
        ("source", "git_commit", "unknown"),
        ("source", "git_commit", "0" * 40),
        ("source", "git_dirty", None),
        ("source", "lock_files", {}),
        ("source", "lock_files", {"a": "b"}),
        ("environment", "packages", {}),
        ("environment", "python", ""),
    ],
)
def test_missing_provenance_is_found(bundle, name, key, value):
    edit(f"metadata/{name}.json", lambda r: r.update({key: value}))(bundle)
    try:
        problems = verify_ties.metadata(bundle)
    except MALFORMED:
        return
    assert {p.where for p in problems} == {f"metadata/{name}.json"}


@pytest.mark.parametrize(
    ("dirty", "digest", "objects"),
    [(True, "e" * 64, False), (True, "e" * 63, True), (True, None, True), (False, "e" * 64, True)],
)
def test_a_dirty_tree_and_only_that_needs_the_digest_of_its_patch(bundle, dirty, digest, objects):
    change = {"git_dirty": dirty, "patch_sha256": digest}
    edit("metadata/source.json", lambda r: r.update(change))(bundle)
    assert bool(verify_ties.metadata(bundle)) is objects


@pytest.mark.parametrize("kind", ["link", "pipe", "large"])
def test_what_is_no_plain_file_of_bounded_size_is_not_read(bundle, kind):
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
    report = verify_bundle(bundle)
    assert (report.verdict, report.exit_code) == (None, 1)


def test_the_largest_file_is_256_mib(bundle):
    with (bundle / "raw" / "large.json").open("wb") as file:
        file.truncate(256 * 2**20)
    assert verify_checks.unreadable(bundle) == []


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_folder_that_is_no_bundle_is_not_accepted(tmp_path, folder):
    report = verify_bundle(tmp_path / folder)
    assert (report.verdict, report.exit_code) == (None, 1)


def test_true_is_not_one(good_bundle, bundle):
    edit("verdict.json", lambda r: r["criteria"].update(failed=False))(bundle)
    (problem,) = verify_checks.derived(bundle, good_bundle.verdict)
    assert problem.what == "criteria.failed = False, recomputed 0"


@pytest.mark.parametrize("name", ["criteria/smoke-run.json", "verdict.json", "policy.json"])
def test_reordered_keys_are_another_layout(good_bundle, bundle, name):
    record = load(bundle, name)
    (bundle / name).write_text(json.dumps(dict(reversed(record.items())), indent=1) + "\n")
    (problem,) = verify_checks.derived(bundle, good_bundle.verdict)
    assert (problem.where, problem.what) == (name, "not in the layout that a gate writes")


def test_manifest_that_climbs_out_is_refused(bundle):
    record = load(bundle, MANIFEST)
    record["files"]["../outside.txt"] = {"size": 1, "sha256": "0" * 64}
    store(bundle, MANIFEST, record)
    assert "../outside.txt: in the manifest but missing" in "".join(verify_bundle(bundle).reasons)


@pytest.mark.parametrize(
    "name", ["verdict.json", "metadata/run.json", "criteria/smoke-run.json", MANIFEST, STATEMENT]
)
def test_unreadable_file_is_a_reason_and_never_a_crash(bundle, name):
    for content in (b"\xff", b'{"criteria": [1]}'):
        (bundle / name).write_bytes(content)
        assert verify_bundle(bundle).exit_code == 1


# Verdicts


@pytest.mark.parametrize("missing", [3, 2, 1])
def test_steps_that_did_not_run_are_shown_and_not_accepted(tmp_path, missing):
    steps = ("validate-config", "smoke-run", "resume-roundtrip", "mismatch-negative")
    built = build_bundle(tmp_path, Story(skip_steps=steps[-missing:]))
    report = verify_bundle(built.folder)
    assert [str(problem) for problem in report.problems] == []
    assert (built.verdict.label, report.exit_code) == ("not run", 1)
    assert built.verdict.steps["validate-config"] == "passed"
    assert "NOT RUN" in (built.folder / "report.md").read_text()


def test_failed_gate_is_intact_and_exits_1_with_the_criterion(tmp_path, capsys):
    built = build_bundle(tmp_path, Story(leftovers=("python",)))
    assert main([str(built.folder), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["intact"], report["accepted"], report["verdict"]) == (True, False, "failed")
    assert [c["name"] for c in report["not_passed"]] == ["smoke/processes_left"]


def test_libero_pass_is_shown_without_fallback(tmp_path):
    built = build_bundle(tmp_path, Story(profile="libero"))
    assert built.verdict.label == "passed"
    assert verify_bundle(built.folder).is_accepted
    assert "# Phase-2 gate: PASSED\n" in (built.folder / "report.md").read_text()


def test_a_bundle_of_flow_noise_agrees_with_its_own_knobs(tmp_path):
    built = build_bundle(tmp_path, Story(variant="flow-noise"))
    assert verify_bundle(built.folder).problems == ()


def test_a_record_of_the_other_profile_does_not_belong_in_a_bundle(bundle, libero_bundle):
    name = files.REWARDED_CONFIG.name
    assert record_problem(RawRecords(libero_bundle), files.SMOKE, name) == ""
    copied = Path("raw", files.SMOKE, name)
    shutil.copy(libero_bundle / copied, bundle / copied)
    found = record_problem(RawRecords(bundle), files.SMOKE, name)
    assert found == "no record of the profile embedded"


def test_a_rewarded_run_cannot_be_left_out(libero_bundle):
    (libero_bundle / "raw" / files.SMOKE / files.REWARDED_EPISODES.name).unlink()
    found = {problem.where for problem in verify_bundle(libero_bundle).problems}
    assert f"raw/{files.SMOKE}/{files.REWARDED_EPISODES.name}" in found


@pytest.mark.parametrize("profile", ["libero", "embedded"])
def test_a_script_in_a_task_name_is_text_in_both_reports(tmp_path, profile):
    name = "<script>alert(1)</script> | [x](y) `z`"
    built = build_bundle(tmp_path, Story(profile=profile, task=name))
    for report in ("report.md", "report.html"):
        text = (built.folder / report).read_text()
        assert "<script" not in text
        assert "&lt;script&gt;" in text
    assert r"\[x\](y) \`z\`" in (built.folder / "report.md").read_text()
    assert verify_bundle(built.folder).is_accepted


def test_json_of_an_accepted_bundle_is_complete(bundle, capsys):
    assert main([str(bundle), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["accepted"]
    assert report["signature"] == "not signed"
    assert report["label"] == "passed (fallback: embedded)"
    assert report["recomputed"]["criteria"]["total"] == report["recomputed"]["criteria"]["passed"]


def test_wrong_usage_exits_2(capsys):
    with pytest.raises(UsageError, match="bundle is missing"):
        main([])


def test_verifier_needs_neither_torch_nor_a_tracker():
    code = (
        "import sys, pirl.audit.verify, pirl.tracking.sink; "
        "bad = {'torch', 'mlflow', 'lerobot', 'matplotlib', 'prefect', 'scipy'} & set(sys.modules); "
        "sys.exit(f'imported {bad}' if bad else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("content", [b"no key", b""])
def test_a_file_that_is_no_key_is_refused_with_how_to_make_one(tmp_path, content):
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    for reader, fix in ((load_private_key, "genpkey"), (load_public_key, "-pubout")):
        with pytest.raises(ConfigError, match=fix):
            reader(path)
        with pytest.raises(ConfigError, match=fix):
            reader(tmp_path / "missing.pem")


def stop_first_step(bundle, stopped_by):
    path = bundle / "metadata" / "run.json"
    run = json.loads(path.read_text())
    run["steps"][files.VALIDATE]["stopped_by"] = stopped_by
    path.write_text(json.dumps(run))


def test_a_config_may_only_be_missing_where_the_first_step_ended_early(bundle):
    def missing():
        return {problem.where for problem in verify_checks.file_set(bundle)}

    config = {"config/canonical.json", "config/train_config.json"}
    for name in config:
        (bundle / name).unlink()
    (bundle / "config").rmdir()
    assert missing() == config
    stop_first_step(bundle, "EnvironmentNotReadyError")
    assert not missing() & config
    run = json.loads((bundle / "metadata" / "run.json").read_text())
    del run["steps"][files.VALIDATE]
    (bundle / "metadata" / "run.json").write_text(json.dumps(run))
    assert missing() >= config
