"""`dvc.yaml`, `params.yaml`, `prefect.toml` and `prefect.yaml` name things that exist and agree with the code."""

from __future__ import annotations

import json
import shutil
import subprocess
import tomllib
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from pirl import dvc_stage
from pirl.audit.criterion import Verdict
from pirl.audit.records.files import STEPS
from pirl.config.recipe import VARIANTS
from pirl.errors import EnvironmentNotReadyError
from pirl.gate import main
from pirl.gate.profiles import PROFILES
from pirl.gate.session import GateFailedError, GateSession, StepOutcome

REPO = Path(__file__).resolve().parents[3]


def document(name: str) -> dict:
    return yaml.safe_load((REPO / name).read_text())


STAGE = document("dvc.yaml")["stages"]["phase2_gate"]


def is_ignored(path: str) -> bool:
    """Whether git ignores the path."""
    done = subprocess.run(["git", "check-ignore", "-q", path], cwd=REPO, check=False)
    return done.returncode == 0


def files_of(entries: list) -> list[str]:
    """Paths of a list of DVC outputs, with or without options."""
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


@pytest.mark.parametrize("name", dvc_stage.STAGES)
def test_stage_runs_its_own_command_of_the_one_module(name):
    stages = document("dvc.yaml")["stages"] | document("learning/dvc.yaml")["stages"]
    assert stages[name]["cmd"] == f"python -m {dvc_stage.__name__} {name}"


def test_stage_is_never_answered_from_a_cache():
    assert STAGE["always_changed"] is True


def test_stage_depends_on_files_that_are_in_git():
    for path in STAGE["deps"]:
        tracked = subprocess.run(
            ["git", "ls-files", "--error-unmatch", path], cwd=REPO, capture_output=True, check=False
        )
        assert tracked.returncode == 0, path


def test_parameters_of_the_stage_are_those_that_the_gate_reads():
    assert STAGE["params"] == ["gate"]
    gate = document("params.yaml")["gate"]
    assert set(gate) == {"profile", "variant", "config"}
    assert gate["variant"] in VARIANTS
    assert gate["profile"] in PROFILES
    assert main.default_variant(REPO / "params.yaml") == gate["variant"]
    assert main.gate_overrides(REPO / "params.yaml") == ["--seed=1000"]


def test_versioned_outputs_are_out_of_git_and_shown_numbers_are_in_it():
    assert all(is_ignored(path) for path in STAGE["outs"])
    shown = files_of(STAGE["metrics"]) + files_of(STAGE["plots"])
    assert not any(is_ignored(path) for path in shown)
    assert all(entry[name]["cache"] is False for entry in STAGE["metrics"] for name in entry)


def test_lock_of_a_passed_gate_can_be_committed():
    assert not is_ignored("dvc.lock")
    assert is_ignored("mlflow.db")
    assert is_ignored(".prefect/prefect.db")


def a_smoke_run(work: Path) -> SimpleNamespace:
    """What the smoke run leaves behind, as far as the stage reads it."""
    root = work / "smoke"
    step = root / "checkpoints" / "000001"
    step.mkdir(parents=True)
    (step / "weights.bin").write_bytes(b"w")
    (root / "checkpoints" / "last").symlink_to("000001")
    learner = root / "learner"
    learner.mkdir()
    row = {
        "rollout/success_rate": 0.5,
        "update/approx_kl": 0.01,
        "update/value_loss": 0.2,
        "update/parity_max_abs": 0.0,
    }
    line = {"format": 1, "step": 1, "version": 1, "elapsed_s": 1.0, "metrics": row}
    (learner / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    config = work / "train_config.json"
    config.write_text("{}")
    return SimpleNamespace(work=work, config_path=str(config))


@pytest.fixture
def outputs(monkeypatch, tmp_path):
    """The stage's outputs, written into an empty folder."""
    gate = a_smoke_run(tmp_path / "bundle.work")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dvc_stage, "resolve_checkpoint", lambda run: run / "checkpoints" / "000001")
    record = {"label": "passed", "variant": "flow-sde", "criteria_passed": 74,
              "criteria_total": 74, "seconds": 1.0}  # fmt: skip
    dvc_stage.write_gate_outputs(gate, record)
    return tmp_path


def test_stage_writes_exactly_the_outputs_that_dvc_expects(outputs):
    for path in STAGE["outs"] + files_of(STAGE["metrics"]) + files_of(STAGE["plots"]):
        assert (outputs / path).exists(), path


def test_no_link_is_versioned(outputs):
    # A `last` link inside an output makes every later DVC command fail.
    links = [p for out in STAGE["outs"] for p in (outputs / out).rglob("*") if p.is_symlink()]
    assert links == []


def test_plot_has_the_columns_that_dvc_draws(outputs):
    options = next(iter(STAGE["plots"][0].values()))
    header = (outputs / dvc_stage.GATE_CURVE).read_text().splitlines()[0].split(",")
    assert {options["x"], options["y"]} <= set(header)


def test_every_metric_is_a_number_or_a_word_that_fits_a_column(outputs):
    files = (outputs / dvc_stage.GATE_METRICS, *(REPO / "reports").glob("*.json"))
    for file in files:
        assert all(len(str(value)) < 30 for value in json.loads(file.read_text()).values()), file


@pytest.mark.parametrize(
    ("failed_step", "error", "code"),
    [
        ("validate-config", EnvironmentNotReadyError("no assets", remedy="fetch them"), 3),
        ("smoke-run", GateFailedError("actor-0 was killed by SIGKILL"), 1),
    ],
)
def test_stage_of_a_gate_that_ended_early_versions_nothing_and_says_why(
    monkeypatch, tmp_path, capsys, failed_step, error, code
):
    outcomes = {
        step: StepOutcome(step=step, verdict=Verdict.NOT_RUN, results=[], error="")
        for step in STEPS[: STEPS.index(failed_step)]
    }
    outcomes[failed_step] = StepOutcome(
        step=failed_step,
        verdict=Verdict.NOT_RUN,
        results=[],
        error=str(error),
        exit_code=error.exit_code,
    )
    gate = GateSession(
        profile=None, variant="flow-sde", work=tmp_path, bundle=None, loaded=None, outcomes=outcomes
    )
    judged = SimpleNamespace(
        verdict=Verdict.NOT_RUN, label="not run", profile="embedded", variant="flow-sde", steps={},
        total=1, count=lambda _verdict: 0,
    )  # fmt: skip
    bundle = SimpleNamespace(verdict=judged, folder=tmp_path / "bundle", digest="d")
    shutil.copy(REPO / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("configure_logging", "interrupt_on_signals", "end_with_parent"):
        monkeypatch.setattr(dvc_stage, name, lambda *_: None)
    monkeypatch.setattr(dvc_stage, "open_gate", lambda **_: nullcontext(gate))
    monkeypatch.setattr(dvc_stage, "tracked", lambda *_: nullcontext(None))
    monkeypatch.setattr(main, "run_steps", lambda *_: bundle)
    assert dvc_stage.main(["phase2_gate"]) == code
    assert not (tmp_path / dvc_stage.GATE_OUT).exists()
    assert f"{failed_step} ended early" in capsys.readouterr().out


def test_the_flow_has_the_profiles_of_the_gate():
    written = (REPO / "flows" / "phase2_gate.py").read_text()
    assert f"Literal[{', '.join(f'"{name}"' for name in PROFILES)}]" in written


def test_served_and_deployed_flow_are_the_same():
    (deployment,) = document("prefect.yaml")["deployments"]
    path, function = deployment["entrypoint"].split(":")
    assert deployment["name"] == "phase2-gate"
    assert f"def {function}(" in (REPO / path).read_text()
    assert document("params.yaml")["gate"]["variant"] == deployment["parameters"]["variant"]


def test_every_prefect_command_talks_to_the_served_server():
    settings = tomllib.loads((REPO / "prefect.toml").read_text())
    assert settings["api"]["url"].startswith("http://127.0.0.1:")
    assert settings["plugins"]["enabled"] is True
    assert settings["server"]["analytics_enabled"] is False
