"""The commands of DVC's stages: `python -m pirl.dvc_stage phase2_gate` and `... learn`.

Each runs what `pirl gate` or `pirl bench learn` runs; this module copies what DVC versions and writes the numbers
that `dvc metrics` and `dvc plots` show. The evidence bundle is no output: a verdict is never served from a cache.
Read `dvc.yaml` and `learning/dvc.yaml` next.
"""

from __future__ import annotations

import csv
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pirl.checkpoint.locate import resolve_checkpoint
from pirl.errors import ExitCode
from pirl.files import copy_tree, write_json, writing
from pirl.gate import main as gate_main
from pirl.gate.session import GateSession, open_gate
from pirl.gate.smoke_step import RUN as SMOKE
from pirl.gate.track import tracked
from pirl.guard import run_guarded
from pirl.journal.metric_log import read_metrics
from pirl.runtime.entry import configure_logging
from pirl.runtime.layout import RunFolder
from pirl.runtime.procs import end_with_parent, interrupt_on_signals

GATE_OUT, GATE_METRICS, GATE_CURVE = (
    Path("runs/dvc"), Path("reports/gate.json"), Path("reports/learning.csv"),
)  # fmt: skip
LEARN_OUT, LEARN_METRICS, LEARN_CURVE = (
    Path("runs/dvc-learn"), Path("reports/learn.json"), Path("reports/learn.csv"),
)  # fmt: skip
_GATE_COLUMNS = ("rollout/success_rate", "update/approx_kl", "update/value_loss")
_LEARN_COLUMNS = ("update", "env_steps", "successes", "episodes", "mean_env_steps")


def phase2_gate() -> ExitCode:
    """Run the gate of `params.yaml`; OK only when it passed."""
    started = time.monotonic()
    with (
        open_gate(
            profile=gate_main.default_profile(),
            variant=gate_main.default_variant(),
            out=GATE_OUT / "bundle",
            launched_by="dvc",
            config=gate_main.own_config(),
            overrides=gate_main.gate_overrides(),
            replace=True,
        ) as gate,
        tracked(gate) as tracker,
    ):
        bundle = gate_main.run_steps(gate, tracker)
        record = gate_main.result_record(gate, bundle, seconds=time.monotonic() - started)
        # A gate that ended before its smoke run did has nothing to version; DVC sees the exit code.
        smoke = gate.outcomes.get("smoke-run")
        if smoke is not None and not smoke.ends_gate:
            write_gate_outputs(gate, record)
    sys.stdout.write(gate_main.render(record) + "\n")
    return gate_main.exit_code(gate, bundle)


def write_gate_outputs(gate: GateSession, record: Mapping[str, Any]) -> None:
    """Config and last checkpoint of the smoke run, its numbers and its curve."""
    smoke = RunFolder(gate.work / SMOKE)
    config, checkpoint = GATE_OUT / "config", GATE_OUT / "checkpoint"
    with writing(GATE_OUT):
        for folder in (config, checkpoint):
            if folder.exists():
                shutil.rmtree(folder)
        config.mkdir(parents=True)
        shutil.copy(gate.config_path, config / "train_config.json")
        # A `last` link inside an output would break DVC, so one step is copied.
        step_dir = resolve_checkpoint(smoke.root)
        copy_tree(step_dir, checkpoint / step_dir.name)
    rows = read_metrics(smoke.learner_metrics)
    last = rows[-1].metrics
    numbers = {
        "verdict": record["label"],
        "criteria_passed": record["criteria_passed"],
        "criteria_total": record["criteria_total"],
        "approx_kl": last["update/approx_kl"],
        "value_loss": last["update/value_loss"],
        "parity_max_abs": max(row.metrics["update/parity_max_abs"] for row in rows),
        "seconds": record["seconds"],
    }
    write_json(GATE_METRICS, numbers, indent=1, sort_keys=False)
    _write_curve(
        GATE_CURVE,
        ("update", *(name.split("/")[1] for name in _GATE_COLUMNS)),
        ((row.step, *(row.metrics[name] for name in _GATE_COLUMNS)) for row in rows),
    )


def learn() -> ExitCode:
    """Run `learn` of `learning/settings.yaml`; OK only when every bound held."""
    from pirl.learning import main as learning
    from pirl.learning.proof import PRETRAINED
    from pirl.learning.settings import read_settings

    record = learning.learn(read_settings(), LEARN_OUT, videos=2, mlflow=True, replace=True)
    policy = LEARN_OUT / "policy"
    with writing(policy):
        shutil.copytree(resolve_checkpoint(LEARN_OUT / "run") / PRETRAINED, policy)
    write_json(LEARN_METRICS, learn_numbers(record), indent=1, sort_keys=False)
    points = record["points"]
    rows = ([point[name] for name in _LEARN_COLUMNS] for point in points)
    _write_curve(LEARN_CURVE, _LEARN_COLUMNS, rows)
    sys.stdout.write(learning.render(record, LEARN_OUT) + "\n")
    return ExitCode.OK if record["passed"] else ExitCode.CHECK_FAILED


def learn_numbers(record: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a learning run that two commits can be compared by; counts, not shares."""
    first, last = record["points"][0], record["points"][-1]
    return {
        "passed": record["passed"],
        "start_successes": first["successes"],
        "end_successes": last["successes"],
        "episodes": last["episodes"],
        "env_steps": last["env_steps"],
        "mean_env_steps": last["mean_env_steps"],
    }


def _write_curve(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with writing(path), path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


STAGES: dict[str, Callable[[], ExitCode]] = {"phase2_gate": phase2_gate, "learn": learn}
"""By the name in `dvc.yaml`."""


def main(argv: Sequence[str]) -> int:
    """Run one stage."""
    (name,) = argv
    configure_logging(name)
    interrupt_on_signals()
    # DVC that is ended by a signal leaves its command running.
    end_with_parent(signal.SIGTERM)
    return int(STAGES[name]())


if __name__ == "__main__":
    sys.exit(run_guarded(main, sys.argv[1:]))
