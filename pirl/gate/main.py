"""`pirl gate`: the phase-2 gate without any service. Prefect and DVC reach the same code by other doors.

Owns arguments, the one-line result and the exit code. The order of the steps is `pirl.gate.session`'s.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, cast

from pirl.audit.bundle import FinishedBundle
from pirl.audit.criterion import Verdict
from pirl.audit.records.files import STEPS
from pirl.config.command_line import parse
from pirl.config.recipe import VARIANTS
from pirl.config.yamlfile import read_section
from pirl.errors import ConfigError, ExitCode, FieldError
from pirl.gate.arguments import PROFILES, gate_parser
from pirl.gate.profiles import flatten
from pirl.gate.session import GateSession, StepOutcome, open_gate
from pirl.gate.track import Tracker, tracked
from pirl.resources import locate
from pirl.runtime.entry import configure_logging
from pirl.runtime.procs import interrupt_on_signals

logger = logging.getLogger(__name__)

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


def own_config(parameters: Path = PARAMS) -> Path | None:
    """`gate.config_path` of `params.yaml`, the file of the profile `own`."""
    path = _parameter("config_path", None, parameters)
    if path is not None and not isinstance(path, str):
        raise _wrong_parameter("config_path", path, "the path of a train config", parameters)
    return None if path is None else Path(path)


def _parameter(name: str, default: Any, parameters: Path) -> Any:
    """`gate.<name>` of `params.yaml`.

    Any: whatever YAML can hold.
    """
    value = read_section(locate(parameters), "gate", field="params").get(name)
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


def run_step(gate: GateSession, tracker: Tracker, step: str) -> StepOutcome:
    """One step and its record in the tracker."""
    with tracker.step(gate, step) as judged:
        outcome = gate.run_step(step)
        judged(outcome)
    return outcome


def run_steps(
    gate: GateSession,
    tracker: Tracker,
    *,
    run: Callable[[GateSession, Tracker, str], StepOutcome] = run_step,
) -> FinishedBundle:
    """The steps in order until one ends the gate, then the sealed bundle: every door's order.

    Args:
        run: runs one step; a door may wrap `run_step` in something of its own.
    """
    for step in STEPS[len(gate.outcomes) :]:
        if run(gate, tracker, step).ends_gate:
            logger.error("step %s ended early; no further step starts", step)
            break
    bundle = gate.finish()
    tracker.gate_done(bundle)
    return bundle


def why_it_ended(gate: GateSession) -> str:
    """One line about the step that ended the gate early; empty when every step ran."""
    ended = gate.ended_by
    if ended is None:
        return ""
    return f"{ended.step} ended early: " + "; ".join(map(str.strip, ended.error.splitlines()))


def exit_code(gate: GateSession, bundle: FinishedBundle) -> ExitCode:
    """0 only for a pass, 3 when the machine lacks something, 1 otherwise."""
    if bundle.verdict.verdict is Verdict.PASSED:
        return ExitCode.OK
    ended = gate.ended_by
    if ended is not None and ended.exit_code is ExitCode.NOT_READY:
        return ExitCode.NOT_READY
    return ExitCode.CHECK_FAILED


def result_record(gate: GateSession, bundle: FinishedBundle, *, seconds: float) -> dict[str, Any]:
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
        "ended_early": why_it_ended(gate),
    }


def main(argv: Sequence[str]) -> int:
    """Command line of `pirl gate`; exit code 0 only for a gate that passed."""
    args, overrides = parse(gate_parser(), argv)
    configure_logging("gate")
    interrupt_on_signals()
    logging.getLogger("OpenGL").setLevel(logging.WARNING)
    out: Path = args.out or Path("runs") / time.strftime("gate-%Y%m%d-%H%M%S", time.gmtime())
    started = time.monotonic()
    if args.learner_processes is not None:
        overrides = [*overrides, f"--parallelism.dp_replicate={args.learner_processes}"]
    own: Path | None = args.config
    try:
        with (
            # Stdout is for the answer, and a policy's library may print there.
            redirect_stdout(sys.stderr),
            open_gate(
                profile=args.profile or ("own" if own else "auto"),
                variant=args.variant or (None if own else default_variant()),
                out=out,
                launched_by=args.launched_by,
                config=own,
                overrides=overrides if own else [*gate_overrides(), *overrides],
                sign_with=args.sign,
            ) as gate,
            tracked(gate, enabled=not args.no_mlflow) as tracker,
        ):
            bundle = run_steps(gate, tracker)
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted: {out} is incomplete, and `pirl verify` refuses it\n")
        return int(ExitCode.INTERRUPTED)
    record = result_record(gate, bundle, seconds=time.monotonic() - started)
    if args.json:
        sys.stdout.write(json.dumps(record, indent=1) + "\n")
    else:
        sys.stdout.write(render(record) + "\n")
    return int(exit_code(gate, bundle))


def render(record: dict[str, Any]) -> str:
    """The result for a person: verdict first, then where to look."""
    lines = [
        f"phase-2 gate, {record['variant']}: {record['label']}",
        f"  {record['criteria_passed']}/{record['criteria_total']} criteria in {record['seconds']} s",
        *(f"  {step:<18} {verdict}" for step, verdict in record["steps"].items()),
        *([f"  {record['ended_early']}"] if record["ended_early"] else []),
        f"  report   {record['bundle']}/report.html",
        f"  verify   pirl verify {record['bundle']}",
        f"  digest   {record['bundle_digest']}",
    ]
    return "\n".join(lines)
