"""A real actor meets LeRobot's own learner service: `python -m pirl.gate.stock_learner CONFIG PORT`.

The service here is LeRobot's class, unchanged; it accepts anyone and says nothing of itself. The actor must
refuse it before it loads a tensor. Ends with the actor's exit code.
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

from pirl.runtime.procs import ProcessGroup, spawn

_ACTOR_S = 100.0


def main(argv: Sequence[str]) -> int:
    """Command line: config and port. Serve, run one actor, return the actor's exit code."""
    config_path, port = argv
    shutdown: Any = multiprocessing.Event()
    queues: list[Any] = [multiprocessing.Queue() for _ in range(3)]
    service = LearnerService(
        shutdown_event=shutdown,
        parameters_queue=queues[0],
        seconds_between_pushes=1.0,
        transition_queue=queues[1],
        interaction_message_queue=queues[2],
    )
    server = grpc.server(ThreadPoolExecutor(4))
    services_pb2_grpc.add_LearnerServiceServicer_to_server(service, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    argv = [
        sys.executable,
        "-m",
        "pirl.actor",
        "--config_path",
        config_path,
        f"--runtime.port={port}",
    ]
    try:
        with ProcessGroup(grace_s=2.0) as group:
            code = group.add(spawn("actor", argv)).wait(_ACTOR_S)
    finally:
        shutdown.set()
        server.stop(0.5).wait(5.0)
    return 1 if code is None else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
