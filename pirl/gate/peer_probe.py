"""A real process with a wrong identity: `python -m pirl.gate.peer_probe CASE CONFIG PORT`.

Builds the identity that an actor of the config would have, changes one thing, and meets the learner with the
same link as an actor. Ends with the exit code that an actor would end with.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import grpc
from lerobot.transport import services_pb2, services_pb2_grpc

from pirl.config.load import load_config
from pirl.guard import run_guarded
from pirl.runtime.session import build_session
from pirl.transport.client import ActorLink
from pirl.transport.identity import Identity
from pirl.transport.status import from_rpc_error

CHANGES: dict[str, Callable[[Identity], Identity]] = {
    "action-mode": lambda i: replace(i, action_mode="another-mode"),
    "denoising-steps": lambda i: replace(i, denoising_steps=i.denoising_steps + 1),
    "policy-architecture": lambda i: replace(i, policy_architecture="0" * 64),
    "protocol-version": lambda i: replace(i, protocol_version=i.protocol_version + 1),
    "execution-horizon": lambda i: replace(i, executed_steps=i.executed_steps + 1),
    "control-mode": lambda i: replace(i, control_mode="another-mode"),
    "noise-settings": lambda i: replace(i, noise_settings=f"another {i.noise_settings}"),
    "cameras": lambda i: replace(i, cameras=f"another,{i.cameras}"),
    "suite": lambda i: replace(i, environment=f"another {i.environment}"),
    "state-split": lambda i: replace(i, state_split=f"another {i.state_split}"),
    "policy-settings": lambda i: replace(i, policy_settings=f"another {i.policy_settings}"),
    "run-id": lambda i: replace(i, run_id="another-run"),
}
"""What is wrong in each case."""

DEADLINE_S = 30.0


def probe(case: str, config_path: str, port: int) -> int:
    """Meet the learner with a changed identity, or, for `missing-metadata`, as stock LeRobot would."""
    loaded = load_config(config_path, [f"--runtime.port={port}"])
    runtime = loaded.cfg.runtime
    if case == "missing-metadata":
        _call_without_metadata(runtime.host, port)
        return 0
    identity = CHANGES[case](build_session(loaded, device="cpu", run_id="").identity)
    with ActorLink(identity, runtime=runtime, rank=0) as link:
        link.connect(timeout_s=DEADLINE_S)
        link.wait_for_version(0, timeout_s=DEADLINE_S)
    return 0


def _call_without_metadata(host: str, port: int) -> None:
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        stub = services_pb2_grpc.LearnerServiceStub(channel)
        empty: Any = services_pb2.Empty()  # pyright: ignore[reportAttributeAccessIssue]
        try:
            stub.Ready(empty, timeout=DEADLINE_S, wait_for_ready=True)
        except grpc.RpcError as error:
            raise from_rpc_error(error, doing="call without metadata") from error


def main(argv: Sequence[str]) -> int:
    """Command line: case, config and port."""
    case, config_path, port = argv
    return probe(case, config_path, int(port))


if __name__ == "__main__":
    sys.exit(run_guarded(main, sys.argv[1:]))
