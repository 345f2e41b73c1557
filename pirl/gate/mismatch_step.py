"""Step 4, mismatch-negative: every class of mismatch is refused, and the refusal has teeth.

Order: an identical pair is accepted by the same harness; then one learner faces every wrong peer, and a valid
contact follows each; then checkpoints that were tampered with; then the same cases with a check disabled on
purpose, which must be judged as not refused. Owns the order of `raw/mismatch-negative/*`. Read
`pirl.gate.mismatch_run` next.
"""

from __future__ import annotations

from typing import Any

from pirl.evidence.bundle import StepWriter
from pirl.evidence.raw import read_object
from pirl.gate.forked import ForkedGroup
from pirl.gate.mismatch_cases import client_cases, process_cases
from pirl.gate.mismatch_checkpoints import checkpoint_cases, resume_argv, tampered
from pirl.gate.mismatch_run import Case, keep_logs, run_case, run_cases, run_pair, start_learner
from pirl.gate.processes import Watch
from pirl.gate.session import GateSession
from pirl.hooks import VARIABLE
from pirl.runtime.layout import RunFolder
from pirl.runtime.procs import wait_until


def run(gate: GateSession, step: StepWriter) -> None:
    """Run control, negatives, checkpoint cases and teeth; write `cases.jsonl` and `teeth.jsonl`.

    Raises:
        GateFailedError, ProcessDiedError, TooLateError: the harness itself did not work.
    """
    watch = Watch()
    control = {"class": "control"} | run_pair(gate, step, name="control", env=watch.env)
    try:
        with ForkedGroup() as group:
            host = start_learner(gate, group, name="host", env=watch.env)
            rows = run_cases(gate, step, process_cases(gate, host), host, watch.env)
            rows += client_cases(gate, host)
            rows += run_cases(gate, step, checkpoint_cases(gate), host, watch.env)
            host.process.terminate()
            wait_until(
                lambda: host.process.poll() is not None,
                what="the end of the learner of the negative tests on SIGTERM",
                deadline_s=gate.allowed_s("stop"),
            )
    finally:
        keep_logs(gate, step, "host-*.log")
    books = read_object(host.folder.run_record)
    for row in rows:
        # Nobody valid ever sent a decision to this learner, so its totals belong to the wrong peers.
        row["transitions_accepted"] = books["counters"]["received"]
        row["optimiser_steps"] = books["books"]["optimiser_steps"]
    step.lines("cases.jsonl", [control, *rows])
    step.lines(
        "teeth.jsonl", [_teeth_handshake(gate, step, watch), _teeth_manifest(gate, step, watch)]
    )


def _teeth_handshake(gate: GateSession, step: StepWriter, watch: Watch) -> dict[str, Any]:
    """Without the handshake a wrong actor is accepted and its decisions are trained on."""
    row = run_pair(
        gate,
        step,
        name="toothless",
        actor_overrides=[f"--pirl.gamma={gate.loaded.cfg.pirl.gamma / 2}"],
        env={**watch.env, VARIABLE: "handshake"},
    )
    return {**row, "class": "config-hash", "disabled": "handshake"}


def _teeth_manifest(gate: GateSession, step: StepWriter, watch: Watch) -> dict[str, Any]:
    """Without the manifest check a tampered, finished checkpoint is taken as it is."""
    copy = tampered(gate, "checkpoint-manifest")
    case = Case(
        name="checkpoint-manifest",
        argv=resume_argv(copy),
        direction="teeth",
        env={VARIABLE: "manifest"},
    )
    with ForkedGroup() as group:
        row = run_case(gate, step, case, group, watch.env)
    record = RunFolder(copy.parent.parent).run_record
    # A learner that refused after all leaves no record; the case is judged to have no teeth.
    hooks = read_object(record)["hooks"] if record.exists() else []
    return row | {"direction": "checkpoint", "disabled": "manifest", "hooks": hooks}
