"""The command of the DVC stage `phase2_gate`: the gate, then the outputs that DVC versions.

The gate itself is `pirl.gate.main`; this module only copies the resolved config and the smoke run's last
checkpoint to the stage's outputs and writes the numbers that `dvc metrics` and `dvc plots` show. The evidence
bundle is not an output: a verdict is never served from a cache.
"""

from __future__ import annotations

import csv
import json
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pirl.checkpoint.locate import resolve_checkpoint
from pirl.files import copy_tree, write_text, writing
from pirl.gate.main import (
    default_profile,
    default_variant,
    exit_code,
    gate_overrides,
    render,
    result_record,
    run_steps,
)
from pirl.gate.session import GateSession, open_gate
from pirl.gate.smoke_step import RUN as SMOKE
from pirl.gate.track import tracked
from pirl.guard import run_guarded
from pirl.journal.fields import read_object
from pirl.journal.metric_log import read_metrics
from pirl.runtime.entry import configure_logging
from pirl.runtime.layout import RunFolder
from pirl.runtime.procs import end_with_parent, interrupt_on_signals

OUTPUTS = Path("runs/dvc")
METRICS = Path("reports/gate.json")
CURVE = Path("reports/learning.csv")
_CURVE_METRICS = ("rollout/success_rate", "update/approx_kl", "update/value_loss")


def main(argv: Sequence[str]) -> int:
    """Run the gate of `params.yaml`; exit code 0 only when it passed."""
    configure_logging("gate")
    interrupt_on_signals()
    # DVC that is killed leaves its command running.
    end_with_parent(signal.SIGTERM)
    bundle_folder = OUTPUTS / "bundle"
    started = time.monotonic()
    with (
        open_gate(
            profile=default_profile(),
            variant=default_variant(),
            out=bundle_folder,
            launched_by="dvc",
            overrides=gate_overrides(),
            replace=True,
        ) as gate,
        tracked(gate) as tracker,
    ):
        bundle = run_steps(gate, tracker)
        record = result_record(gate, bundle, seconds=time.monotonic() - started)
        # A gate that ended before its smoke run did has nothing to version; DVC sees the exit code.
        smoke = gate.outcomes.get("smoke-run")
        if smoke is not None and not smoke.ends_gate:
            write_outputs(gate, record)
    sys.stdout.write(render(record) + "\n")
    return int(exit_code(gate, bundle))


def write_outputs(gate: GateSession, record: dict[str, Any]) -> None:
    """Copy what DVC versions; a `last` link inside an output would break DVC, so one step is copied."""
    smoke = RunFolder(gate.work / SMOKE)
    config, checkpoint = OUTPUTS / "config", OUTPUTS / "checkpoint"
    with writing(OUTPUTS):
        for folder in (config, checkpoint):
            if folder.exists():
                shutil.rmtree(folder)
        config.mkdir(parents=True)
        shutil.copy(gate.config_path, config / "train_config.json")
        step_dir = resolve_checkpoint(smoke.root)
        copy_tree(step_dir, checkpoint / step_dir.name)
    rows = read_metrics(smoke.learner_metrics)
    last = rows[-1].metrics
    write_text(
        METRICS,
        json.dumps(
            {
                "verdict": record["label"],
                "variant": record["variant"],
                "criteria_passed": record["criteria_passed"],
                "criteria_total": record["criteria_total"],
                "weights_sha256": read_object(smoke.run_record)["digests_after"]["trained"],
                "approx_kl": last["update/approx_kl"],
                "value_loss": last["update/value_loss"],
                "parity_max_abs": max(row.metrics["update/parity_max_abs"] for row in rows),
                "seconds": record["seconds"],
            },
            indent=1,
        )
        + "\n",
    )
    with writing(CURVE), CURVE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["update", *(name.split("/")[1] for name in _CURVE_METRICS)])
        for row in rows:
            writer.writerow([row.step, *(row.metrics[name] for name in _CURVE_METRICS)])


if __name__ == "__main__":
    sys.exit(run_guarded(main, sys.argv[1:]))
