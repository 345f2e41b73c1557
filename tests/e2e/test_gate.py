"""The whole gate as a user runs it, and the ways in which an auditor tries to break its bundle.

Real processes, the embedded simulator, no network, no display. The same attempts on synthetic bundles, and many
more of them, are in `tests/audit/test_verify.py`; what a disabled check does is in `test_gate_teeth.py`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pirl.audit.verify import verify_main as verify

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def copy(passed_gate, tmp_path: Path) -> Path:
    """A copy of the bundle that the test may spoil."""
    return shutil.copytree(passed_gate.bundle, tmp_path / "copy")


def records(bundle: Path, name: str) -> list[dict]:
    """Lines of a raw record."""
    return [json.loads(line) for line in (bundle / "raw" / name).read_text().splitlines()]


def refusals(bundle: Path) -> dict[str, dict]:
    """Cases of the mismatch step by class."""
    return {case["name"]: case for case in records(bundle, "mismatch-negative/cases.jsonl")}


def test_gate_passes_without_network_and_display_and_is_named_a_fallback(passed_gate):
    answer = passed_gate.answer
    assert answer["label"] == "passed (fallback: embedded)"
    assert answer["criteria_passed"] == answer["criteria_total"]
    assert verify([str(passed_gate.bundle)]) == 0


def test_gate_needs_no_symbolic_links(passed_gate):
    assert [path for path in passed_gate.work.rglob("*") if path.is_symlink()] == []
    assert list((passed_gate.work / "smoke").rglob("checkpoints/0*"))


def test_one_altered_byte_in_a_log_is_refused(copy):
    log = next((copy / "logs").rglob("learner.log"))
    log.write_bytes(log.read_bytes().replace(b"update", b"updatE", 1))
    assert verify([str(copy)]) == 1


def test_a_loosened_threshold_is_refused(copy):
    path = copy / "policy.json"
    path.write_text(path.read_text().replace('"threshold": 0.001', '"threshold": 1000.0', 1))
    assert verify([str(copy)]) == 1


def test_a_missing_record_is_refused(copy):
    (copy / "raw" / "mismatch-negative" / "teeth.jsonl").unlink()
    assert verify([str(copy)]) == 1


@pytest.mark.parametrize(
    ("expectation", "reason"),
    [
        (("--expect-commit", "f" * 40), "stale: git commit"),
        (("--expect-config-hash", "0" * 64), "stale: config hash"),
        (("--expect-nonce", "0" * 32), "stale: nonce"),
    ],
)
def test_last_weeks_bundle_is_refused_with_the_reason(passed_gate, capsys, expectation, reason):
    assert verify([str(passed_gate.bundle), *expectation]) == 1
    assert reason in capsys.readouterr().out


def test_bundle_of_this_commit_and_config_is_accepted(passed_gate):
    source = json.loads((passed_gate.bundle / "metadata/source.json").read_text())
    verdict = json.loads((passed_gate.bundle / "verdict.json").read_text())
    own = ["--expect-commit", source["git_commit"], "--expect-config-hash", verdict["config_hash"]]
    assert verify([str(passed_gate.bundle), *own]) == 0


def test_actor_of_another_suite_is_refused_for_that_field_alone(passed_gate):
    case = refusals(passed_gate.bundle)["suite"]
    assert case["exit_code"] == 5
    (field,) = case["fields"]
    assert field["field_name"] == "environment"
    assert field["ours"] == f"another {field['theirs']}"
    assert "button-press-topdown-v3" in field["theirs"]
    host = json.loads((passed_gate.bundle / "raw/mismatch-negative/host.json").read_text())
    assert (host["decisions"], host["optimiser_steps"]) == (0, 0)


def test_learner_killed_in_the_middle_of_a_save_leaves_a_checkpoint_that_loads(passed_gate):
    kills = records(passed_gate.bundle, "resume-roundtrip/save_kills.jsonl")
    assert len(kills) >= 3
    assert all(k["exit_code"] == -9 and k["earlier_checkpoint_loads"] for k in kills)


def test_checkpoint_without_its_optimiser_file_is_not_resumed(passed_gate):
    damaged = records(passed_gate.bundle, "resume-roundtrip/damaged.jsonl")
    case = next(d for d in damaged if d["case"] == "missing-optimizer")
    assert case["exit_code"] != 0
    assert "training_state/pi_rl/optimizer_state.safetensors: missing" in case["message"]


def test_failed_episodes_are_listed_with_the_reason(passed_gate):
    episodes = records(passed_gate.bundle, "smoke-run/episodes.jsonl")
    failures = [e for e in episodes if e["end"] != "success"]
    assert failures
    assert {e["end"] for e in failures} <= {"timeout", "failure", "env-error", "interrupted"}
    page = (passed_gate.bundle / "report.html").read_text()
    assert page.count("<td>timeout</td>") == sum(e["end"] == "timeout" for e in episodes)


def test_what_was_not_tested_is_written_down(passed_gate):
    report = (passed_gate.bundle / "report.md").read_text()
    limits = json.loads((passed_gate.bundle / "verdict.json").read_text())["limits"]
    assert limits[0].startswith("LIBERO")
    assert all(f"- {limit}" in report for limit in limits)


def test_every_process_of_a_run_is_another_one(passed_gate):
    rows = [
        row
        for step in ("smoke-run", "resume-roundtrip")
        for row in records(passed_gate.bundle, f"{step}/processes.jsonl")
        if not row["role"].endswith("-uninterrupted")
    ]
    assert len({row["nonce"] for row in rows}) == len(rows)
    assert '"pid"' not in (passed_gate.bundle / "raw/smoke-run/processes.jsonl").read_text()


def test_each_refusal_is_followed_by_a_contact_with_the_same_learner(passed_gate):
    host = json.loads((passed_gate.bundle / "raw/mismatch-negative/host.json").read_text())
    for case in records(passed_gate.bundle, "mismatch-negative/cases.jsonl"):
        assert case["contact"]["run_id"] == host["run_id"]
        assert case["contact"]["started_s"] >= case["started_s"] + case["elapsed_s"]


def test_every_process_is_in_the_commands(passed_gate):
    commands = (passed_gate.bundle / "commands.txt").read_text()
    for role in (
        "smoke-run: learner",
        "resume-roundtrip: resumed actor-0",
        "mismatch-negative: control",
    ):
        assert f"# {role}" in commands
    assert "not-the-token" not in commands
