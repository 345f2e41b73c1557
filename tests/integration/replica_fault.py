"""A process of a learner that dies or falls silent in the middle of an update; run by `pirl.gate.forked`."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from replica_toy import CASES, a_batch, an_algorithm_of, share

from pirl.errors import LinkClosedError
from pirl.runtime.seat import own_seat
from pirl.runtime.team import Team

WAIT_S = 4.0


class Faulty(Team):
    """Its second process fails at the third question of an update."""

    def __init__(self, *arguments: object, fault: str, **options: object) -> None:
        super().__init__(*arguments, **options)
        self.fault, self.asked = fault, 0

    def exchange(self, said):
        self.asked += 1
        if self.rank == 1 and self.asked == 3:
            if self.fault == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(4 * WAIT_S)
        return super().exchange(said)


def main(argv: Sequence[str]) -> int:
    """`dies` or `silent`, and the file for what the first process saw."""
    fault, out = argv
    team = Faulty(
        own_seat(),
        wait_s=WAIT_S,
        command_s=60.0,
        device="cpu",
        stop=threading.Event(),
        fault=fault,
    )
    algorithm = an_algorithm_of(CASES["flow-sde"])
    algorithm.replicas = team
    batch = share(team, a_batch(algorithm))
    began = time.monotonic()
    try:
        algorithm.update(iter([batch]))
    except LinkClosedError as error:
        seen = {"text": str(error), "seconds": time.monotonic() - began, "asked": team.asked}
        Path(out).write_text(json.dumps(seen))
    return 0
