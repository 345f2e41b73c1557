"""The command of the DVC stage `learn`: one learning run, then the outputs that DVC versions.

The run is `pirl.learning.main`'s; this module copies the policy to the stage's output and writes the numbers
that `dvc metrics` and `dvc plots` show. Read `dvc.yaml` next.
"""

from __future__ import annotations

import csv
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pirl.checkpoint.locate import resolve_checkpoint
from pirl.errors import ExitCode
from pirl.files import write_json, writing
from pirl.guard import run_guarded
from pirl.learning.main import learn, render
from pirl.learning.proof import PRETRAINED
from pirl.learning.settings import read_settings
from pirl.runtime.entry import configure_logging
from pirl.runtime.procs import end_with_parent, interrupt_on_signals

OUT = Path("runs/dvc-learn")
POLICY = OUT / "policy"
"""The trained policy; a `last` link inside an output would break DVC, so it is copied."""
METRICS = Path("reports/learn.json")
CURVE = Path("reports/learn.csv")


def main(argv: Sequence[str]) -> int:
    """Run `learn` of `params.yaml`; exit code 0 only when every bound held."""
    configure_logging("learn")
    interrupt_on_signals()
    # DVC that is ended by a signal leaves its command running.
    end_with_parent(signal.SIGTERM)
    record = learn(read_settings(), OUT, videos=2, mlflow=True, replace=True)
    with writing(POLICY):
        shutil.copytree(resolve_checkpoint(OUT / "run") / PRETRAINED, POLICY)
    write_json(METRICS, metrics(record), indent=1, sort_keys=False)
    with writing(CURVE), CURVE.open("w", newline="", encoding="utf-8") as file:
        names = ["update", "env_steps", "successes", "episodes", "mean_env_steps"]
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(record["points"])
    sys.stdout.write(render(record, OUT) + "\n")
    return int(ExitCode.OK if record["passed"] else ExitCode.CHECK_FAILED)


def metrics(record: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a run that two commits can be compared by; counts, not shares."""
    first, last = record["points"][0], record["points"][-1]
    return {
        "passed": record["passed"],
        "variant": record["variant"],
        "seed": record["seed"],
        "start_successes": first["successes"],
        "end_successes": last["successes"],
        "episodes": last["episodes"],
        "env_steps": last["env_steps"],
        "mean_env_steps": last["mean_env_steps"],
        "weights_sha256": record["weights_sha256"],
    }


if __name__ == "__main__":
    sys.exit(run_guarded(main, sys.argv[1:]))
