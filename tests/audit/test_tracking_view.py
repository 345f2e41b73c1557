"""What the tracker shows is a pure function of verdict and config."""

from __future__ import annotations

import base64
import json
import zlib

import pytest

from pirl.audit.judge import judge_step
from pirl.tracking import view


def test_saved_view_shows_parent_runs_with_verdict_first():
    record = json.loads(view.saved_view(now_ms=5))
    packed = base64.b64decode(record["state"].removeprefix("deflate;"))
    state = json.loads(zlib.decompress(packed))
    assert state["searchFilter"] == "tags.`gate.kind` = 'gate'"
    assert state["selectedColumns"][0] == "tags.`gate.verdict`"


def test_note_of_a_run_begins_with_the_verdict(good_bundle):
    note = view.verdict_note(good_bundle.verdict, bundle_digest=good_bundle.digest, commit="abc")
    assert note.splitlines()[0] == "## Verdict: PASSED (FALLBACK: EMBEDDED)"
    assert "| smoke-run | passed | - |" in note


@pytest.mark.parametrize(
    ("label", "word"),
    [(None, "running"), ("not run", "NOT RUN"), ("passed", "PASSED"),
     ("passed (fallback: embedded)", "FALLBACK passed"),
     ("passed (own config: libero)", "OWN passed")],
)  # fmt: skip
def test_name_of_a_run_begins_with_its_verdict(label, word):
    name = view.run_name(variant="flow-sde", commit="1a2b3c4d5e", label=label)
    assert name == f"{word} flow-sde 1a2b3c4"


def test_run_without_a_verdict_is_named_after_its_end():
    assert view.ended_name("running flow-sde 1a2b3c4", "crashed") == "CRASHED flow-sde 1a2b3c4"
    assert view.ended_name("PASSED flow-sde 1a2b3c4", "crashed") == "PASSED flow-sde 1a2b3c4"


def test_table_of_criteria_begins_with_what_did_not_pass(raw):
    (raw.root / "raw/smoke-run/handshake-0.json").unlink()
    table = view.criteria_table(judge_step(raw, "smoke-run"))
    assert table["verdict"][0] != "passed"
    assert table["verdict"][-1] == "passed"
    assert "smoke/handshakes_missing" in table["criterion"][:5]


def test_only_a_pass_on_libero_is_green():
    colors = {
        label: view.run_color(label)
        for label in (
            "passed",
            "passed (fallback: embedded)",
            "passed (own config: libero)",
            "failed",
            "not run",
        )
    }
    assert len(set(colors.values())) == 5
    assert view.run_color("crashed") == colors["failed"]


def test_nested_config_becomes_flat_short_parameters():
    config = {"a": {"b": 1, "c": {"d": [1, 2], "e": {}}}, "f": "x" * 900, "g": None}
    flat = view.flat_params(config)
    assert flat["a.b"] == "1"
    assert flat["a.c.d"] == "[1, 2]"
    assert flat["a.c.e"] == "{}"
    assert flat["g"] == "null"
    assert len(flat["f"]) == view.MAX_PARAM_CHARS


def test_dvc_lock_becomes_tags_of_its_stage(tmp_path):
    lock = tmp_path / "dvc.lock"
    lock.write_text(
        "schema: '2.0'\nstages:\n  phase2_gate@flow-sde:\n    cmd: x\n    deps:\n"
        "    - path: pirl\n      md5: aa.dir\n    outs:\n    - path: runs/a\n      md5: bb\n"
    )
    tags = view.dvc_tags(lock, "phase2_gate@flow-sde")
    assert tags == {
        "dvc.stage": "phase2_gate@flow-sde",
        "dvc.dep.pirl": "aa.dir",
        "dvc.out.runs/a": "bb",
    }
    assert view.dvc_tags(lock, "other") == {}
    assert view.dvc_tags(tmp_path / "none", "other") == {}
