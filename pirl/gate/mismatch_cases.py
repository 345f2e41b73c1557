"""The wrong peers of step 4: real processes, and real clients where one identity field differs.

Owns what is wrong in each case. Read `pirl.gate.mismatch_checkpoints` next.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from pirl.audit.bundle import StepWriter
from pirl.audit.criteria.mismatch import CLASSES
from pirl.audit.records.mismatch import Case, NamedField
from pirl.config.recipe import VARIANTS
from pirl.errors import FieldMismatch, MismatchError
from pirl.files import write_json
from pirl.gate.mismatch_run import Host, WrongPeer, contact, meet
from pirl.gate.peer_probe import CHANGES
from pirl.gate.session import GateSession
from pirl.hooks import hooks_active
from pirl.journal.fields import read_object
from pirl.runtime.launch import free_port
from pirl.runtime.procs import TooLateError
from pirl.transport.identity import Identity


def _actor(*arguments: str) -> tuple[str, ...]:
    return ("pirl.actor", *arguments)


def process_cases(gate: GateSession, host: Host) -> list[WrongPeer]:
    """Real processes that the learner, or the actor itself, must refuse."""
    port = f"--runtime.port={host.port}"
    # A wrong peer that is let in (a hook turned the check off) leaves what it writes in the gate's work.
    out = f"--output_dir={gate.work / 'mismatch-peers'}"
    base = ("--config_path", gate.config_path, port, out)
    elsewhere = gate.work / "elsewhere" / "train_config.json"
    elsewhere.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(gate.config_path, elsewhere)
    other = next(v for v in VARIANTS if v != gate.variant)
    other_config = other_variant(gate, other)
    probe = ("pirl.gate.peer_probe",)
    probed = (
        "action-mode",
        "denoising-steps",
        "policy-architecture",
        "protocol-version",
        "missing-metadata",
    )
    gamma = gate.loaded.cfg.pirl.gamma
    return [
        WrongPeer(name="config-hash", argv=_actor(*base, f"--pirl.gamma={gamma / 2}")),
        WrongPeer(name="config-path", argv=_actor("--config_path", str(elsewhere), port, out)),
        WrongPeer(name="variant", argv=_actor("--config_path", str(other_config), port, out)),
        WrongPeer(name="recipe-spelling", argv=_actor(*base, "--recipe=pi_rl")),
        WrongPeer(name="policy-type", argv=_actor(*base, "--policy.type=gaussian_actor")),
        WrongPeer(
            name="token",
            argv=_actor(*base, "--runtime.token=not-the-token-of-this-run"),
            hidden=("<a token that is not the learner's, withheld>", "<no token>"),
        ),
        *(
            WrongPeer(name=name, argv=(*probe, name, gate.config_path, str(host.port)))
            for name in probed
        ),
        _stock_learner_case(gate),
    ]


def other_variant(gate: GateSession, other: str) -> Path:
    """The gate's config with the other variant, at its own path."""
    raw = dict(read_object(Path(gate.config_path)))
    for name in VARIANTS:
        raw["pirl"].pop(name.replace("-", "_"), None)
    raw["pirl"]["variant"] = other
    raw["pirl"][other.replace("-", "_")] = {}
    return write_json(gate.work / "other-variant" / "train_config.json", raw, sort_keys=False)


def _stock_learner_case(gate: GateSession) -> WrongPeer:
    """A real actor against LeRobot's own service, which says nothing of who it is."""
    port = str(free_port(gate.loaded.cfg.runtime.host))
    return WrongPeer(
        name="missing-metadata",
        argv=_actor("--config_path", gate.config_path, f"--runtime.port={port}"),
        beside=("pirl.gate.stock_learner", port),
        direction="learner-to-actor",
    )


def client_cases(gate: GateSession, step: StepWriter, host: Host) -> list[Case]:
    """Classes that differ in one identity field: a real link in this process will do."""
    names = [row.name for row in CLASSES if not row.needs_process and row.name in CHANGES]
    return [_client_case(gate, step, host, name, CHANGES[name](host.identity)) for name in names]


def _client_case(
    gate: GateSession, step: StepWriter, host: Host, name: str, identity: Identity
) -> Case:
    deadline_s = gate.allowed_s("contact")
    started = step.now()
    code, fields = 0, tuple[FieldMismatch, ...]()
    try:
        meet(gate, host, identity, deadline_s=deadline_s, take_parameters=False)
    except MismatchError as error:
        code, fields = int(error.exit_code), error.fields
    except TooLateError as error:
        code = int(error.exit_code)
    return Case(
        name=name,
        direction="actor-to-learner",
        probe="client",
        hooks=hooks_active(),
        exit_code=code,
        deadline_s=deadline_s,
        started_s=started,
        elapsed_s=step.now() - started,
        fields=tuple(
            NamedField(field_name=f.field, ours=str(f.ours), theirs=str(f.theirs)) for f in fields
        ),
        decisions=None,
        optimiser_steps=None,
        contact=contact(gate, step, host),
    )
