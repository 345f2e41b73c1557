"""LeRobot's own learner service, unchanged: `python -m pirl.gate.stock_learner PORT`.

It accepts anyone and says nothing of itself; an actor of ours must refuse it before it loads a tensor. Serves
until it is terminated.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from lerobot.rl.learner_service import LearnerService
from lerobot.transport import services_pb2_grpc

from pirl.guard import run_guarded
from pirl.runtime.entry import stop_on_signals

_SERVE_S = 300.0
"""Longer than any case; a service that nobody ends ends itself."""


def main(argv: Sequence[str]) -> int:
    """Command line: the port."""
    (port,) = argv
    shutdown: Any = multiprocessing.Event()
    queues: list[Any] = [multiprocessing.Queue() for _ in range(3)]
    service = LearnerService(
        shutdown_event=shutdown,
        parameters_queue=queues[0],
        seconds_between_pushes=1.0,
        transition_queue=queues[1],
        interaction_message_queue=queues[2],
    )
    stop = stop_on_signals()
    server = grpc.server(ThreadPoolExecutor(4))
    services_pb2_grpc.add_LearnerServiceServicer_to_server(service, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        stop.wait(_SERVE_S)
    finally:
        shutdown.set()
        server.stop(0.5).wait(5.0)
    return 0


if __name__ == "__main__":
    sys.exit(run_guarded(main, sys.argv[1:]))
