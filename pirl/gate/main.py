"""`pirl gate`: the phase-2 gate without any service. Prefect and DVC reach the same code by other doors.

Owns arguments, the one-line result and the exit code. The order of the steps is `pirl.gate.session`'s.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pirl.config.recipe import VARIANTS
from pirl.config.yamlfile import read_section
from pirl.errors import ConfigError, ExitCode, FieldError
from pirl.evidence.bundle import LAUNCHERS, FinishedBundle
from pirl.evidence.criteria import STEPS, Verdict
from pirl.gate.profiles import PROFILES, flatten
from pirl.gate.session import GateSession, open_gate
from pirl.gate.track import Tracker, tracked
from pirl.runtime.procs import interrupt_on_signals
from pirl.runtime.session import configure_logging

PARAMS = Path("params.yaml")


def gate_overrides(parameters: Path = PARAMS) -> list[str]:
    """The section `gate.config` of `params.yaml` as dotted overrides of the base config."""
    config = _parameter("config", {}, parameters)
    if not isinstance(config, Mapping):
        raise _wrong_parameter("config", config, "sections of the base config", parameters)
    return flatten(cast("Mapping[str, Any]", config))


def default_variant(parameters: Path = PARAMS) -> str:
    """`gate.variant` of `params.yaml`."""
    return _choice("variant", VARIANTS, parameters)


def default_profile(parameters: Path = PARAMS) -> str:
    """`gate.profile` of `params.yaml`."""
    return _choice("profile", PROFILES, parameters)


def _parameter(name: str, default: Any, parameters: Path) -> Any:
    """`gate.<name>` of `params.yaml`.

    Any: whatever YAML can hold.
    """
    value = read_section(parameters, "gate", field="params").get(name)
    return default if value is None else value


def _choice(name: str, allowed: Sequence[str], parameters: Path) -> str:
    value = _parameter(name, allowed[0], parameters)
    if value not in allowed:
        raise _wrong_parameter(name, value, f"one of {', '.join(allowed)}", parameters)
    return str(value)


def _wrong_parameter(name: str, value: object, expected: str, parameters: Path) -> ConfigError:
    error = FieldError(
        field=f"gate.{name}", value=value, expected=expected, fix=f"correct {parameters.name}"
    )
    return ConfigError([error], source=parameters.name)


def run_steps(gate: GateSession, tracker: Tracker) -> FinishedBundle:
    """All four steps in order, each tracked, then the sealed bundle."""
    for step in STEPS:
        with tracker.step(step):
            outcome = gate.run_step(step)
            tracker.step_done(gate, outcome)
    return finish(gate, tracker)


def finish(gate: GateSession, tracker: Tracker) -> FinishedBundle:
    """Seal the bundle and tell the tracker."""
    bundle = gate.finish()
    tracker.gate_done(gate, bundle)
    return bundle


def result_record(bundle: FinishedBundle, *, seconds: float) -> dict[str, Any]:
    """The answer of `pirl gate --json`."""
    verdict = bundle.verdict
    return {
        "verdict": str(verdict.verdict),
        "label": verdict.label,
        "profile": verdict.profile,
        "variant": verdict.variant,
        "steps": {step: str(v) for step, v in verdict.steps.items()},
        "criteria_passed": verdict.count(Verdict.PASSED),
        "criteria_total": verdict.total,
        "bundle": bundle.folder.as_posix(),
        "bundle_digest": bundle.digest,
        "seconds": round(seconds, 1),
    }


def main(argv: Sequence[str]) -> int:
    """Command line of `pirl gate`; exit code 0 only for a gate that passed."""
    parser = argparse.ArgumentParser(
        prog="pirl gate",
        description="Run the phase-2 gate and write its evidence bundle.",
        epilog="Further --section.field=value arguments override the gate's config; they are part of its "
        "hash and of the evidence.",
    )
    parser.add_argument("--profile", choices=PROFILES, default="auto")
    parser.add_argument("--variant", choices=VARIANTS, help="default: gate.variant of params.yaml")
    parser.add_argument("--out", type=Path, help="bundle folder; default runs/gate-<time>")
    parser.add_argument("--launched-by", choices=LAUNCHERS, default="direct")
    parser.add_argument("--no-mlflow", action="store_true", help="keep no MLflow record")
    parser.add_argument("--json", action="store_true", help="the result as JSON on stdout")
    args, overrides = parser.parse_known_args(list(argv))
    configure_logging("gate")
    interrupt_on_signals()
    logging.getLogger("OpenGL").setLevel(logging.WARNING)
    out: Path = args.out or Path("runs") / time.strftime("gate-%Y%m%d-%H%M%S", time.gmtime())
    started = time.monotonic()
    try:
        with (
            open_gate(
                profile=args.profile,
                variant=args.variant or default_variant(),
                out=out,
                launched_by=args.launched_by,
                overrides=[*gate_overrides(), *overrides],
            ) as gate,
            tracked(gate, enabled=not args.no_mlflow) as tracker,
        ):
            bundle = run_steps(gate, tracker)
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted: {out} is incomplete, and `pirl verify` refuses it\n")
        return int(ExitCode.INTERRUPTED)
    record = result_record(bundle, seconds=time.monotonic() - started)
    if args.json:
        sys.stdout.write(json.dumps(record, indent=1) + "\n")
    else:
        sys.stdout.write(render(record) + "\n")
    passed = bundle.verdict.verdict is Verdict.PASSED
    return int(ExitCode.OK if passed else ExitCode.CHECK_FAILED)


def render(record: dict[str, Any]) -> str:
    """The result for a person: verdict first, then where to look."""
    lines = [
        f"phase-2 gate, {record['variant']}: {record['label']}",
        f"  {record['criteria_passed']}/{record['criteria_total']} criteria in {record['seconds']} s",
        *(f"  {step:<18} {verdict}" for step, verdict in record["steps"].items()),
        f"  report   {record['bundle']}/report.html",
        f"  verify   pirl verify {record['bundle']}",
        f"  digest   {record['bundle_digest']}",
    ]
    return "\n".join(lines)
