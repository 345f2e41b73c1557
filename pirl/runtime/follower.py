"""A learner process that is not the first one: it computes updates with the others and owns nothing of the run.

Owns its loop over the first process's commands and its own `run.json`. Refuses to know servers, stores, metrics
and checkpoints, except the one that a resumed run begins with. Read `pirl.runtime.team` next.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from pirl.checkpoint.digests import tensor_hashes
from pirl.checkpoint.load import load_checkpoint
from pirl.checkpoint.locate import resolve_checkpoint
from pirl.checkpoint.record import library_versions
from pirl.config.load import LoadedConfig
from pirl.errors import ExitCode, FieldMismatch, MismatchError, ParityError
from pirl.ownership import owned
from pirl.runtime.demonstrations import demonstration_facts, open_demonstrations
from pirl.runtime.layout import RunFolder, run_root
from pirl.runtime.mark import leave_mark
from pirl.runtime.memory import require_memory
from pirl.runtime.record import RunRecord, reason_of
from pirl.runtime.seat import Seat, device_of
from pirl.runtime.session import Session
from pirl.runtime.team import Command, Team

logger = logging.getLogger(__name__)


def meet(
    seat: Seat,
    loaded: LoadedConfig,
    *,
    stop: threading.Event,
    facts: Mapping[str, str],
    run_id: str = "",
) -> tuple[Team, str]:
    """Join the processes of this learner, which must have the same config, libraries and demonstrations.

    Args:
        facts: of `demonstration_facts`.
        run_id: of the first process.

    Returns:
        The team, and the run id of the first process.

    Raises:
        LinkClosedError: they did not all come within `runtime.replica_timeout_s`.
        MismatchError: another process has another config, other libraries or other demonstrations.
    """
    runtime = loaded.cfg.runtime
    team = Team(
        seat,
        wait_s=runtime.replica_timeout_s,
        command_s=runtime.version_timeout_s,
        device=device_of(seat, runtime.learner_device),
        stop=stop,
    )
    own = {"config_hash": loaded.identity.hash, **library_versions(), **facts}
    told = team.exchange({"run_id": run_id, "same": own})
    first: dict[str, Any] = told[0]["same"]
    for rank, one in enumerate(told):
        wrong = [
            FieldMismatch(field=name, ours=first[name], theirs=one["same"].get(name))
            for name in first
            if one["same"].get(name) != first[name]
        ]
        if wrong:
            sides = ("process 0", f"process {rank}")
            raise MismatchError("the processes of a learner", wrong, sides=sides)
    logger.info("process %d of the %d of this learner", seat.rank, seat.size)
    return team, str(told[0]["run_id"])


def run_follower(
    loaded: LoadedConfig, seat: Seat, *, stop: threading.Event, build: Callable[..., Session]
) -> ExitCode:
    """Compute with the first process until it says that the run is over.

    Raises:
        LinkClosedError: another process is gone, or the first one commanded nothing for
            `runtime.version_timeout_s`.
        NumericsError: as the update of all of them.
    """
    cfg = loaded.cfg
    facts = demonstration_facts(loaded)
    team, run_id = meet(seat, loaded, stop=stop, facts=facts)
    folder = RunFolder(run_root(cfg.output_dir, run_id))
    path = folder.process_record(seat.role)
    with (
        owned(path.parent, field=f"output_dir ({seat.role})"),
        RunRecord(path, role=seat.role) as record,
    ):
        leave_mark(folder.marks(seat.role), seat.role)
        session = build(loaded, device=device_of(seat, cfg.runtime.learner_device), run_id=run_id)
        session.algorithm.demonstrations = open_demonstrations(loaded, session.policy, facts)
        record.facts |= {"identity": asdict(session.identity), "rank": seat.rank, "of": seat.size}
        session.algorithm.make_optimizers_and_scheduler()
        session.algorithm.replicas = team
        if cfg.resume:
            load_checkpoint(
                resolve_checkpoint(loaded.source_path),
                cfg=cfg,
                flow_policy=session.policy,
                algorithm=session.algorithm,
                run_dir=None,
            )
        require_memory(session, processes=seat.size)
        code = _follow(session, team)
        team.leave()
        record.facts["updates"] = session.algorithm.updates
        record.write("finished" if code is ExitCode.OK else code.name.lower(), complete=True)
        return code


def _follow(session: Session, team: Team) -> ExitCode:
    algorithm = session.algorithm
    while True:
        command, argument = team.next_command()
        if command is Command.END:
            return ExitCode(argument)
        if command is Command.COMPARE:
            team.compare_own(tensor_hashes(algorithm.live_tensors()))
            continue
        try:
            algorithm.update(iter([team.receive()]))
        except ParityError as error:
            # Nothing has changed; the first process asks the senders' replacements.
            logger.warning("no update: %s", reason_of(error))
