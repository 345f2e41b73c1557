"""Step 4, mismatch-negative: every class of mismatch is refused, and the refusal has teeth.

Order: an identical pair is accepted by the same harness; then one learner faces every wrong peer, and a valid
contact follows each; then checkpoints that were tampered with; then the same cases with a check disabled on
purpose, which must be judged as not refused. Owns how `raw/mismatch-negative/*` comes about.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pirl.checkpoint.layout import RUN_STATE
from pirl.checkpoint.locate import resolve_checkpoint
from pirl.checkpoint.manifest import MANIFEST_NAME, write_manifest
from pirl.config.load import load_config
from pirl.config.recipe import VARIANTS
from pirl.errors import FieldMismatch, MismatchError
from pirl.evidence.bundle import StepWriter
from pirl.gate import forked
from pirl.gate.peer_probe import CHANGES
from pirl.gate.processes import Watch
from pirl.gate.session import GateFailedError, GateSession
from pirl.gate.smoke_step import RUN as SMOKE
from pirl.hooks import VARIABLE
from pirl.runtime.launch import free_port, launch
from pirl.runtime.layout import RunFolder
from pirl.runtime.procs import Child, ProcessGroup, spawn
from pirl.runtime.session import build_session
from pirl.transport.client import ActorLink
from pirl.transport.identity import Identity

DEADLINE_S = 120.0
"""Any refusal must come within this long, process start included."""
_PARALLEL = 4
_HEALTH_S = 20.0
_TRAIN_CONFIG = Path("pretrained_model/train_config.json")
_MISMATCH_LINE = re.compile(
    r"^\s+(?P<field>[\w./ ()-]+): \w+ = (?P<ours>.*), \w+ = (?P<theirs>.*)$"
)
_FIELD_LINE = re.compile(r"^(?P<field>[\w.]+) = (?P<value>.*)$")
_EXPECTED_LINE = re.compile(r"^\s+expected: (?P<expected>.*)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """One wrong process: what it is, how it is started and which side notices."""

    name: str
    argv: tuple[str, ...]
    """Module with a `main`, then its arguments."""
    direction: str = "actor-to-learner"
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    hidden: tuple[str, str] | None = None
    """Stand-ins for values that must not be shown (a token)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Host:
    """A learner that waits for actors, and how to reach it."""

    child: Child
    folder: RunFolder
    port: int
    identity: Identity


def run(gate: GateSession, step: StepWriter) -> None:
    """Run control, negatives, checkpoint cases and teeth; write `cases.jsonl` and `teeth.jsonl`.

    Raises:
        GateFailedError: the harness itself did not work.
    """
    watch = Watch()
    cases = [_control(gate, step, watch)]
    with ProcessGroup() as group:
        host = _start_host(gate, group, watch, name="host")
        rows = _negatives(gate, step, host, watch) + _client_cases(gate, host)
        rows += _checkpoint_cases(gate, step, host, watch)
        host.child.signal_group(signal.SIGTERM)
        if host.child.wait(30.0) is None:
            raise GateFailedError("the learner of the negative tests did not end on SIGTERM")
    step.log("host-learner", gate.work / "logs" / "mismatch" / "host.log")
    books = json.loads(host.folder.run_record.read_text())
    for row in rows:
        # Nobody valid ever sent a decision to this learner, so its totals belong to the wrong peers.
        row["transitions_accepted"] = books["counters"]["received"]
        row["optimiser_steps"] = books["books"]["optimiser_steps"]
    step.lines("cases.jsonl", [*cases, *rows])
    step.lines("teeth.jsonl", _teeth(gate, step, watch))


# -- control ---------------------------------------------------------------------------------------


def _control(gate: GateSession, step: StepWriter, watch: Watch) -> dict[str, Any]:
    """An identical pair, started by the same means, is accepted and trains once."""
    folder = RunFolder(gate.work / "control")
    logs = gate.work / "logs" / "control"
    started = time.monotonic()
    result = launch(
        gate.config_path,
        actors=gate.loaded.cfg.runtime.actors,
        overrides=[f"--output_dir={folder.root}", "--runtime.total_updates=1", "--runtime.port=0"],
        env=watch.env,
        log_dir=logs,
        quiet=True,
        deadline_s=600.0,
    )
    for row in result.processes:
        step.log(f"control-{row['role']}", logs / f"{row['role']}.log")
    if not folder.run_record.exists():
        raise GateFailedError("the control pair left no record; see logs/mismatch-negative/")
    books = json.loads(folder.run_record.read_text())
    return {
        "class": "control",
        "direction": "actor-to-learner",
        "probe": "process",
        "hooks": books["hooks"],
        "exit_code": int(result.exit_code),
        "deadline_s": DEADLINE_S,
        "elapsed_s": time.monotonic() - started,
        "fields": [],
        "transitions_accepted": books["counters"]["received"],
        "optimiser_steps": books["books"]["optimiser_steps"],
        "learner_healthy": result.exit_code == 0,
    }


# -- wrong peers of one learner --------------------------------------------------------------------


def _start_host(
    gate: GateSession,
    group: ProcessGroup,
    watch: Watch,
    *,
    name: str,
    overrides: Sequence[str] = (),
    hook: str | None = None,
) -> _Host:
    """A learner of the gate's config that waits for its actors."""
    folder = RunFolder(gate.work / f"mismatch-{name}")
    loaded = load_config(gate.config_path, overrides)
    port = free_port(loaded.cfg.runtime.host)
    argv = [
        sys.executable,
        "-m",
        "pirl.learner",
        "--config_path",
        gate.config_path,
        *overrides,
        f"--output_dir={folder.root}",
        f"--runtime.port={port}",
    ]
    env = {**watch.env, **({VARIABLE: hook} if hook else {})}
    log = gate.work / "logs" / "mismatch" / f"{name}.log"
    child = group.add(spawn(name, argv, env=env, log_path=log))
    identity = build_session(loaded, device="cpu", run_id="").identity
    host = _Host(child=child, folder=folder, port=port, identity=identity)
    if not _is_healthy(gate, host, timeout_s=DEADLINE_S):
        raise GateFailedError(f"the learner {name!r} does not answer; see its log")
    return host


def _is_healthy(gate: GateSession, host: _Host, *, timeout_s: float = _HEALTH_S) -> bool:
    """Whether the learner accepts a valid peer now and hands it its parameters."""
    runtime = load_config(gate.config_path, [f"--runtime.port={host.port}"]).cfg.runtime
    try:
        with ActorLink(host.identity, runtime=runtime, rank=0) as link:
            link.connect(timeout_s=timeout_s)
            message = link.wait_for_version(0, timeout_s=timeout_s)
            return message is not None and bool(message.weights)
    except MismatchError:
        return False


def _actor(*arguments: str) -> tuple[str, ...]:
    return ("pirl.actor", *arguments)


def _negatives(
    gate: GateSession, step: StepWriter, host: _Host, watch: Watch
) -> list[dict[str, Any]]:
    """Real processes that the learner must refuse, two at a time."""
    cases = _process_cases(gate, host)
    with ThreadPoolExecutor(_PARALLEL) as pool:
        rows = list(pool.map(lambda case: _run_case(gate, step, case, watch), cases))
    healthy = _is_healthy(gate, host)
    for row in rows:
        row["learner_healthy"] = healthy
    return rows


def _process_cases(gate: GateSession, host: _Host) -> list[_Case]:
    port = f"--runtime.port={host.port}"
    base = ("--config_path", gate.config_path, port)
    elsewhere = gate.work / "elsewhere" / "train_config.json"
    elsewhere.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(gate.config_path, elsewhere)
    other = next(v for v in VARIANTS if v != gate.variant)
    other_config = _other_variant(gate, other)
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
        _Case(name="config-hash", argv=_actor(*base, f"--pirl.gamma={gamma / 2}")),
        _Case(name="config-path", argv=_actor("--config_path", str(elsewhere), port)),
        _Case(name="variant", argv=_actor("--config_path", str(other_config), port)),
        _Case(name="recipe-spelling", argv=_actor(*base, "--recipe=pi_rl")),
        _Case(name="policy-type", argv=_actor(*base, "--policy.type=gaussian_actor")),
        _Case(
            name="token",
            argv=_actor(*base, "--runtime.token=not-the-token-of-this-run"),
            hidden=("<a token that is not the learner's, withheld>", "<no token>"),
        ),
        *(
            _Case(name=name, argv=(*probe, name, gate.config_path, str(host.port)))
            for name in probed
        ),
        _stock_learner_case(gate),
    ]


def _other_variant(gate: GateSession, other: str) -> Path:
    """The gate's config with the other variant, at its own path."""
    raw: dict[str, Any] = json.loads(Path(gate.config_path).read_text(encoding="utf-8"))
    for name in VARIANTS:
        raw["pirl"].pop(name.replace("-", "_"), None)
    raw["pirl"]["variant"] = other
    raw["pirl"][other.replace("-", "_")] = {}
    path = gate.work / "other-variant" / "train_config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(raw), encoding="utf-8")
    return path


def _stock_learner_case(gate: GateSession) -> _Case:
    """A real actor against LeRobot's own service, which says nothing of who it is."""
    argv = (
        "pirl.gate.stock_learner",
        gate.config_path,
        str(free_port(gate.loaded.cfg.runtime.host)),
    )
    return _Case(name="missing-metadata", argv=argv, direction="learner-to-actor")


def _run_case(gate: GateSession, step: StepWriter, case: _Case, watch: Watch) -> dict[str, Any]:
    """Start one wrong process, wait for its end, read what it said."""
    label = f"{case.name}-{case.direction}"
    log = gate.work / "logs" / "mismatch" / f"{label}.log"
    started = time.monotonic()
    module, *argv = case.argv
    process = forked.start(module, argv, env={**watch.env, **case.env}, log_path=log)
    code = forked.wait(process, DEADLINE_S)
    elapsed = time.monotonic() - started
    text = log.read_text(encoding="utf-8", errors="replace")
    if case.hidden is None:
        step.log(label, log)
    fields = _named_fields(text)
    if case.hidden is not None:
        fields = [f | {"ours": case.hidden[0], "theirs": case.hidden[1]} for f in fields]
    return {
        "class": case.name,
        "direction": case.direction,
        "probe": "process",
        "hooks": sorted(filter(None, case.env.get(VARIABLE, "").split(","))),
        "exit_code": 0 if code is None else code,
        "deadline_s": DEADLINE_S,
        "elapsed_s": elapsed,
        "fields": fields,
        "transitions_accepted": 0,
        "optimiser_steps": 0,
        "learner_healthy": True,
    }


def _named_fields(text: str) -> list[dict[str, str]]:
    """Fields with both values, from the message a refused process printed."""
    found: list[dict[str, str]] = []
    pending: dict[str, str] | None = None
    for line in text.splitlines():
        if match := _MISMATCH_LINE.match(line):
            found.append(match.groupdict())
        elif match := _FIELD_LINE.match(line):
            pending = {"field": match["field"], "ours": match["value"]}
        elif pending is not None and (match := _EXPECTED_LINE.match(line)):
            found.append(pending | {"theirs": match["expected"]})
            pending = None
    return found


def _client_cases(gate: GateSession, host: _Host) -> list[dict[str, Any]]:
    """Classes that differ in one identity field: a real link in this process will do."""
    overrides = {
        "noise-settings": "--pirl.last_step_rule=sde"
        if gate.loaded.cfg.pirl.last_step_rule != "sde"
        else "--pirl.last_step_rule=additive",
        "cameras": "--policy.num_image_views=7",
        "suite": "--env.task=libero_spatial"
        if gate.profile.name == "libero"
        else "--env.task=drawer-close-v3",
        "state-split": "--runtime.split=all",
    }
    identities = {
        name: replace(
            host.identity, config_hash=load_config(gate.config_path, [override]).identity.hash
        )
        for name, override in overrides.items()
    }
    for name in ("execution-horizon", "run-id"):
        identities[name] = CHANGES[name](host.identity)
    return [_client_case(gate, host, name, identity) for name, identity in identities.items()]


def _client_case(gate: GateSession, host: _Host, name: str, identity: Identity) -> dict[str, Any]:
    runtime = load_config(gate.config_path, [f"--runtime.port={host.port}"]).cfg.runtime
    started = time.monotonic()
    code, fields = 0, tuple[FieldMismatch, ...]()
    try:
        with ActorLink(identity, runtime=runtime, rank=0) as link:
            link.connect(timeout_s=_HEALTH_S)
    except MismatchError as error:
        code, fields = int(error.exit_code), error.fields
    return {
        "class": name,
        "direction": "actor-to-learner",
        "probe": "client",
        "hooks": [],
        "exit_code": code,
        "deadline_s": _HEALTH_S,
        "elapsed_s": time.monotonic() - started,
        "fields": [
            {"field": f.field, "ours": str(f.ours), "theirs": str(f.theirs)} for f in fields
        ],
        "transitions_accepted": 0,
        "optimiser_steps": 0,
        "learner_healthy": _is_healthy(gate, host),
    }


# -- checkpoints that were tampered with -----------------------------------------------------------


def _edit_record(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """Edit `run_state.json` and write a manifest that fits, as an attacker would."""

    def tamper(step_dir: Path) -> None:
        path = step_dir / RUN_STATE
        record = json.loads(path.read_text("utf-8"))
        change(record)
        path.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
        (step_dir / MANIFEST_NAME).unlink()
        write_manifest(step_dir)

    return tamper


def _edit_manifest(step_dir: Path) -> None:
    path = step_dir / MANIFEST_NAME
    manifest = json.loads(path.read_text("utf-8"))
    first = next(iter(manifest["files"]))
    manifest["files"][first]["size"] += 1
    path.write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")


_TAMPER: dict[str, Callable[[Path], None]] = {
    "checkpoint-identity": _edit_record(lambda r: r["identity"].update(recipe="another-recipe")),
    "checkpoint-manifest": _edit_manifest,
    "package-version": _edit_record(lambda r: r["versions"].update(lerobot="0.0.1")),
}


def _tampered(gate: GateSession, name: str) -> Path:
    """A copy of the smoke run's last checkpoint, tampered with."""
    source = resolve_checkpoint(gate.work / SMOKE)
    copy = gate.work / "tampered" / name / "checkpoints" / source.name
    if copy.parent.exists():
        shutil.rmtree(copy.parent)
    shutil.copytree(source, copy)
    if name in _TAMPER:
        _TAMPER[name](copy)
    return copy


def _resume_argv(step_dir: Path, *extra: str) -> tuple[str, ...]:
    run_dir = step_dir.parent.parent
    return (
        "pirl.learner",
        "--config_path",
        str(step_dir / _TRAIN_CONFIG),
        "--resume=true",
        f"--output_dir={run_dir}",
        "--runtime.port=0",
        *extra,
    )


def _checkpoint_cases(
    gate: GateSession, step: StepWriter, host: _Host, watch: Watch
) -> list[dict[str, Any]]:
    """Learners that must refuse to resume; each is a process of its own."""
    cases = [
        _Case(name=name, argv=_resume_argv(_tampered(gate, name)), direction="checkpoint")
        for name in _TAMPER
    ]
    sound = _tampered(gate, "resume-other-variant")
    _rewrite_variant(gate, sound)
    cases.append(
        _Case(name="resume-other-variant", argv=_resume_argv(sound), direction="checkpoint")
    )
    with ThreadPoolExecutor(_PARALLEL) as pool:
        rows = list(pool.map(lambda case: _run_case(gate, step, case, watch), cases))
    healthy = _is_healthy(gate, host)
    for row in rows:
        row["learner_healthy"] = healthy
    return rows


def _rewrite_variant(gate: GateSession, step_dir: Path) -> None:
    """Ask for the other variant when resuming: another config beside an untouched checkpoint."""
    other = next(v for v in VARIANTS if v != gate.variant)
    shutil.copy(_other_variant(gate, other), step_dir / _TRAIN_CONFIG)
    (step_dir / MANIFEST_NAME).unlink()
    write_manifest(step_dir)


# -- teeth -----------------------------------------------------------------------------------------


def _teeth(gate: GateSession, step: StepWriter, watch: Watch) -> list[dict[str, Any]]:
    """The same harness with a check disabled must report an accepted mismatch."""
    return [_teeth_handshake(gate, step, watch), _teeth_manifest(gate, step, watch)]


def _teeth_handshake(gate: GateSession, step: StepWriter, watch: Watch) -> dict[str, Any]:
    """Without the handshake a wrong actor is accepted and its decisions are trained on."""
    cfg = gate.loaded.cfg
    with ProcessGroup() as group:
        host = _start_host(
            gate,
            group,
            watch,
            name="toothless",
            overrides=["--runtime.total_updates=1"],
            hook="handshake",
        )
        log = gate.work / "logs" / "mismatch"
        started = time.monotonic()
        actors = [
            group.add(
                spawn(
                    f"toothless-actor-{rank}",
                    [
                        sys.executable,
                        "-m",
                        *_actor("--config_path", gate.config_path, f"--runtime.port={host.port}"),
                        f"--pirl.gamma={cfg.pirl.gamma / 2}",
                        "--rank",
                        str(rank),
                    ],
                    env={**watch.env, VARIABLE: "handshake"},
                    log_path=log / f"toothless-actor-{rank}.log",
                )
            )
            for rank in range(cfg.runtime.actors)
        ]
        host.child.wait(600.0)
        codes = [actor.wait(60.0) for actor in actors]
        host.child.stop()
    step.log("toothless-learner", log / "toothless.log")
    books = json.loads(host.folder.run_record.read_text())
    return {
        "class": "config-hash",
        "disabled": "handshake",
        "direction": "actor-to-learner",
        "probe": "process",
        "hooks": books["hooks"],
        "exit_code": max((c if c is not None else 1) for c in codes),
        "deadline_s": DEADLINE_S,
        "elapsed_s": min(time.monotonic() - started, DEADLINE_S),
        "fields": [],
        "transitions_accepted": books["counters"]["received"],
        "optimiser_steps": books["books"]["optimiser_steps"],
        "learner_healthy": True,
    }


def _teeth_manifest(gate: GateSession, step: StepWriter, watch: Watch) -> dict[str, Any]:
    """Without the manifest check a tampered, finished checkpoint is taken as it is."""
    copy = _tampered(gate, "checkpoint-manifest")
    case = _Case(
        name="checkpoint-manifest",
        argv=_resume_argv(copy),
        direction="teeth",
        env={VARIABLE: "manifest"},
    )
    row = _run_case(gate, step, case, watch)
    record = json.loads(RunFolder(copy.parent.parent).run_record.read_text())
    return row | {
        "direction": "checkpoint",
        "disabled": "manifest",
        "hooks": record["hooks"],
    }
