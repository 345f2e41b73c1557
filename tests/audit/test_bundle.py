"""What a bundle consists of, and what its writer refuses."""

from __future__ import annotations

import json
import re
import subprocess
from contextlib import suppress

import pytest
from bundle_builder import REPO, Story, build_bundle

from pirl.audit.bundle import BundleWriter
from pirl.audit.page import render_html
from pirl.audit.records import files, resume
from pirl.audit.redact import Redactor
from pirl.errors import EvidenceError, PirlError
from pirl.journal.environment import collect_environment, collect_source


def start(folder, **changes):
    arguments = {
        "repo_root": REPO,
        "redactor": Redactor.for_this_machine(REPO),
        "launched_by": "test",
    }
    return BundleWriter.start(folder, **arguments | changes)


def a_step(writer):
    return writer.step("smoke-run", config_hash="ab", variant="flow-sde")


def test_bundle_holds_everything_an_auditor_asks_for(good_bundle):
    names = {p.relative_to(good_bundle.folder).as_posix() for p in good_bundle.folder.rglob("*")}
    assert {
        "commands.txt", "config/canonical.json", "config/train_config.json",
        "criteria/smoke-run.json",
        "logs/smoke-run/learner.log", "manifest.json", "media/rollout.mp4", "media/rollout.png",
        "metadata/environment.json", "metadata/run.json", "metadata/source.json", "policy.json",
        "report.html", "report.md", "statement.json", "verdict.json",
    } <= names  # fmt: skip


def test_wall_clock_times_are_in_metadata_and_reports_only(good_bundle):
    stamp = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d")
    holders = {
        path.relative_to(good_bundle.folder).parts[0]
        for path in good_bundle.folder.rglob("*")
        if path.suffix in (".json", ".jsonl", ".md", ".html", ".txt")
        and stamp.search(path.read_text(encoding="utf-8"))
    }
    assert holders == {"metadata", "report.md", "report.html"}


def test_statement_is_in_toto_about_the_manifest(good_bundle):
    statement = json.loads((good_bundle.folder / "statement.json").read_text())
    assert set(statement) == {"_type", "subject", "predicateType", "predicate"}
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    (subject,) = statement["subject"]
    assert subject == {"name": "manifest.json", "digest": {"sha256": good_bundle.digest}}


def test_two_bundles_of_one_story_have_different_nonces(tmp_path, good_bundle):
    other = build_bundle(tmp_path)
    runs = [json.loads((b.folder / "metadata/run.json").read_text()) for b in (good_bundle, other)]
    assert runs[0]["nonce"] != runs[1]["nonce"]


def test_log_names_no_folder_of_this_machine(good_bundle):
    log = (good_bundle.folder / "logs/smoke-run/learner.log").read_text()
    assert "learner ready in <repo>/outputs" in log
    assert str(REPO) not in log


def test_token_in_a_log_stops_the_bundle_and_is_not_shown(tmp_path):
    token = "correct horse battery"
    with pytest.raises(EvidenceError) as refused:
        build_bundle(tmp_path, Story(secrets=(token,), extra_log=f"metadata {token}\n"))
    assert "learner.log" in str(refused.value)
    assert token not in str(refused.value)


def test_stale_folder_is_refused(tmp_path):
    (tmp_path / "old.json").write_text("{}")
    with pytest.raises(EvidenceError, match="not empty"):
        start(tmp_path)


def test_unknown_launcher_and_unknown_step_are_refused(tmp_path):
    with pytest.raises(EvidenceError, match="launched_by"):
        start(tmp_path / "a", launched_by="somebody")
    with pytest.raises(EvidenceError, match="smoke-run"):
        start(tmp_path / "b").step("smoke", config_hash="", variant="")


def test_config_that_names_this_machine_is_refused_because_its_hash_would_not_survive(tmp_path):
    writer = start(tmp_path / "bundle")
    with pytest.raises(EvidenceError, match="relative"):
        writer.config(json.dumps({"a": f"{REPO}/weights"}), {})
    with pytest.raises(EvidenceError, match="relative"):
        a_step(writer).exact(files.LEARNER_CONFIG, f"{REPO}/x")


def test_value_that_json_cannot_express_is_refused(tmp_path):
    writer = start(tmp_path / "bundle")
    kill = resume.Kill(
        checkpoint_update=1, killed_after_update=1, total_updates=2, resume_elapsed_s=float("nan"),
        resume_deadline_s=1.0,
    )  # fmt: skip
    step = writer.step("resume-roundtrip", config_hash="", variant="")
    with pytest.raises(EvidenceError, match="resume_elapsed_s"):
        step.write(files.KILL, kill)
    with pytest.raises(ValueError, match="of resume-roundtrip, not of smoke-run"):
        a_step(writer).write(files.KILL, kill)


def test_file_of_an_unknown_type_stops_the_bundle(tmp_path):
    writer = start(tmp_path / "bundle")
    (tmp_path / "bundle" / "weights.pkl").write_bytes(b"x")
    with pytest.raises(EvidenceError, match="not fit") as refused:
        writer.finish(pictures=False)
    assert "weights.pkl" in str(refused.value)


def test_step_that_raises_is_noted_and_the_bundle_can_still_be_finished(tmp_path):
    writer = start(tmp_path / "bundle")

    def broken():
        with a_step(writer):
            raise RuntimeError("the message may hold anything")

    with pytest.raises(RuntimeError):
        broken()
    finished = writer.finish(pictures=False)
    run = json.loads((finished.folder / "metadata/run.json").read_text())
    assert run["steps"]["smoke-run"]["stopped_by"] == "RuntimeError"
    assert run["steps"]["smoke-run"]["error"] is None
    assert "may hold anything" not in (finished.folder / "report.md").read_text()
    assert finished.verdict.label in ("failed", "not run")


def ended_early(folder, message, **changes):
    """A finished bundle whose smoke run ended with a deliberate error."""
    writer = start(folder, **changes)
    with suppress(PirlError), a_step(writer):
        raise PirlError(message)
    return writer.finish(pictures=False)


def test_report_says_which_step_ended_early_and_why(tmp_path):
    message = f"actor-0 was killed by SIGKILL,\n  its last line: `<script>` in {REPO}/runs/x.py"
    finished = ended_early(tmp_path / "bundle", message)
    shown = r"its last line: '&lt;script&gt;' in &lt;repo&gt;/runs/x.py"
    text = (finished.folder / "report.md").read_text()
    assert "**smoke-run ended early**, and no further step started: actor-0 was killed" in text
    assert shown.replace("'", r"\`") in text
    page = (finished.folder / "report.html").read_text()
    assert "smoke-run ended early" in page
    assert "&lt;script&gt;" in page
    assert "<script>" not in page


def test_message_of_an_early_end_that_holds_a_secret_is_withheld(tmp_path):
    secret = "not-to-be-known"
    redactor = Redactor.for_this_machine(REPO, secrets=[secret])
    finished = ended_early(tmp_path / "bundle", f"refused {secret}", redactor=redactor)
    text = (finished.folder / "report.md").read_text()
    assert "withheld" in text
    assert secret not in text


def test_dirty_tree_gets_a_digest_that_follows_its_content(tmp_path):
    def git(*args):
        subprocess.run(["git", *args], cwd=tmp_path, check=True, capture_output=True, timeout=60)

    git("init", "-q")
    git("config", "user.email", "a@b.invalid")
    git("config", "user.name", "a")
    (tmp_path / "a.txt").write_text("1")
    git("add", "a.txt")
    git("commit", "-qm", "a")
    assert collect_source(tmp_path)["git_dirty"] is False
    (tmp_path / "a.txt").write_text("2")
    changed = collect_source(tmp_path)["patch_sha256"]
    (tmp_path / "new.txt").write_text("3")
    added = collect_source(tmp_path, lock_files=("a.txt",))
    (tmp_path / "new.txt").write_text("4")
    edited = collect_source(tmp_path)["patch_sha256"]
    assert len({changed, added["patch_sha256"], edited}) == 3
    assert set(added["lock_files"]) == {"a.txt"}


def test_source_without_git_or_lock_file_is_refused(tmp_path):
    with pytest.raises(EvidenceError, match="checkout"):
        collect_source(tmp_path)
    with pytest.raises(EvidenceError, match="missing"):
        collect_source(REPO, lock_files=("no-such.lock",))


def test_environment_names_versions_and_threads_and_no_host_or_user():
    facts = collect_environment()
    assert facts["packages"]["torch"]
    assert facts["cpu_usable"] >= 1
    assert "OMP_NUM_THREADS" in facts["variables"]
    assert not {"host", "hostname", "node", "user", "cwd"} & set(facts)


def test_a_step_is_noted_when_it_begins_and_when_it_ends(tmp_path):
    """A gate that is killed leaves word of the step it was in."""
    writer = start(tmp_path / "bundle")

    def noted():
        return json.loads((tmp_path / "bundle" / "metadata" / "run.json").read_text())["steps"]

    with a_step(writer):
        assert noted()["smoke-run"]["ended_utc"] is None
    assert noted()["smoke-run"]["ended_utc"] is not None


def test_starts_of_processes_are_told_from_the_start_of_the_gate(tmp_path):
    writer = start(tmp_path / "bundle")
    writer.began_unix = 100.0
    assert writer.since_start(101.23456) == 1.235


@pytest.mark.parametrize(("size", "is_inside"), [(8 * 2**20, True), (8 * 2**20 + 1, False)])
def test_a_long_video_stays_a_file_beside_the_page(bundle, size, is_inside):
    with (bundle / "media" / "rollout.mp4").open("wb") as file:
        file.truncate(size)
    assert ("data:video/mp4" in render_html(bundle)) is is_inside
