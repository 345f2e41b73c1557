"""Step 4, mismatch-negative: every class of mismatch is refused, and the refusal has teeth.

Order: an identical pair is accepted by the same harness; then one learner faces every wrong peer, and its own
valid contact follows each; then checkpoints that were tampered with; then the same cases with a check disabled on
purpose, which must be judged as let in. Owns the order of the records of mismatch-negative. Read
`pirl.gate.mismatch_run` next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pirl.audit.bundle import StepWriter
from pirl.audit.records import files
from pirl.audit.records.mismatch import Host as HostRecord
from pirl.audit.records.mismatch import Tooth
from pirl.config.load import load_config
from pirl.files import write_json
from pirl.gate.forked import ForkedGroup
from pirl.gate.mismatch_cases import client_cases, process_cases
from pirl.gate.mismatch_checkpoints import checkpoint_cases, resuming, tampered
from pirl.gate.mismatch_run import keep_logs, run_case, run_cases, run_pair, start_learner
from pirl.gate.processes import Watch
from pirl.gate.session import GateSession
from pirl.hooks import VARIABLE
from pirl.journal.fields import read_object
from pirl.runtime.layout import RunFolder
from pirl.runtime.procs import wait_until


def run(gate: GateSession, step: StepWriter) -> None:
    """Run control, negatives, checkpoint cases and teeth.

    Raises:
        GateFailedError, ProcessDiedError, TooLateError: the harness itself did not work.
    """
    gate = _of_one_process(gate)
    watch = Watch()
    step.write(files.CONTROL, run_pair(gate, step, name="control", env=watch.env))
    try:
        with ForkedGroup() as group:
            host = start_learner(gate, group, name="host", step=step, env=watch.env)
            cases = run_cases(gate, step, process_cases(gate, host), host, watch.env)
            cases += client_cases(gate, step, host)
            cases += run_cases(gate, step, checkpoint_cases(gate), host, watch.env)
            host.process.terminate()
            wait_until(
                lambda: host.process.poll() is not None,
                what="the end of the learner of the negative tests on SIGTERM",
                deadline_s=gate.allowed_s("stop"),
            )
    finally:
        keep_logs(gate, step, "host-*.log")
    step.write_all(files.CASES, cases)
    step.write(files.HOST, host_record(read_object(host.folder.run_record)))
    teeth = [_teeth_handshake(gate, step, watch), _teeth_manifest(gate, step, watch)]
    step.write_all(files.TEETH, teeth)


def _of_one_process(gate: GateSession) -> GateSession:
    """The gate with a learner of one process: a refusal is the first process's, whatever others there are."""
    if gate.loaded.cfg.parallelism.dp_replicate == 1:
        return gate
    config = dict(read_object(Path(gate.config_path)))
    config["parallelism"] = {**config["parallelism"], "dp_replicate": 1}
    path = write_json(gate.work / "one-process" / "train_config.json", config, sort_keys=False)
    return replace(gate, loaded=load_config(path))


def host_record(record: Mapping[str, Any]) -> HostRecord:
    """The host's books, by its own record: nobody valid ever sent it a decision, so they are the wrong peers'."""
    return HostRecord(
        run_id=record["identity"]["run_id"],
        decisions=record["counters"]["received"],
        optimiser_steps=record["books"]["optimiser_steps"],
    )


def _teeth_handshake(gate: GateSession, step: StepWriter, watch: Watch) -> Tooth:
    """Without the handshake a wrong actor is accepted and its decisions are trained on."""
    case = run_pair(
        gate,
        step,
        name="toothless",
        actor_overrides=[f"--pirl.gamma={gate.loaded.cfg.pirl.gamma / 2}"],
        env={**watch.env, VARIABLE: "handshake"},
    )
    return Tooth(disabled="handshake", reported=case.hooks, case=replace(case, name="config-hash"))


def _teeth_manifest(gate: GateSession, step: StepWriter, watch: Watch) -> Tooth:
    """Without the manifest check a tampered, finished checkpoint is taken as it is."""
    copy = tampered(gate, "checkpoint-manifest")
    peer = resuming("checkpoint-manifest", copy, direction="teeth", env={VARIABLE: "manifest"})
    with ForkedGroup() as group:
        case = run_case(gate, step, peer, group, watch.env)
    record = RunFolder(copy.parent.parent).run_record
    # A learner that refused after all leaves no record; the case is judged to have no teeth.
    reported = tuple(read_object(record)["hooks"]) if record.exists() else None
    return Tooth(disabled="manifest", reported=reported, case=replace(case, direction="checkpoint"))
