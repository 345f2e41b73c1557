"""Serve the deployment `phase2-gate/phase2-gate`: `pirl serve`, or `python -m flows.serve`.

Starts the Prefect server that `prefect.toml` names when none answers there, then runs the deployment in this
process; each flow run is a subprocess. Ctrl-C or SIGTERM ends both, and the server cannot outlive this process.
"""

from __future__ import annotations

import argparse
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from prefect import serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.settings import get_current_settings

from flows.phase2_gate import phase2_gate
from pirl.errors import EnvironmentNotReadyError
from pirl.gate.serve import SETTINGS
from pirl.guard import run_guarded
from pirl.runtime.procs import Child, ProcessGroup, spawn

SERVER_LOG = Path(".prefect/server.log")
_START_S = 180.0
_POLL_S = 0.5
_LOOPBACK = ("127.0.0.1", "localhost")


def is_up(url: str) -> bool:
    """Whether a Prefect server answers at `url`."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2.0) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def start_server(url: str, *, deadline_s: float = _START_S) -> Child:
    """A server of our own at `url`, answering.

    Raises:
        EnvironmentNotReadyError: `url` is not of this machine, or the server did not answer in time.
    """
    where = urlsplit(url)
    if where.hostname not in _LOOPBACK:
        raise EnvironmentNotReadyError(
            f"no Prefect server answers at {url}",
            remedy="start it there, or set PREFECT_API_URL to a server on this machine",
        )
    argv = [sys.executable, "-m", "prefect", "server", "start"]
    argv += ["--host", str(where.hostname), "--port", str(where.port)]
    server = spawn("prefect-server", argv, log_path=SERVER_LOG)
    deadline = time.monotonic() + deadline_s
    while not is_up(url):
        if server.poll() is not None or time.monotonic() > deadline:
            server.stop()
            raise EnvironmentNotReadyError(
                f"the Prefect server did not answer at {url}",
                remedy=f"read {SERVER_LOG}; another port: PREFECT_API_URL=http://127.0.0.1:PORT/api",
            )
        time.sleep(_POLL_S)
    return server


def run_command(url: str) -> str:
    """How to start the deployment from this folder: with `prefect.toml` here the bare name will do."""
    if SETTINGS.is_file():
        return "prefect deployment run phase2-gate"
    return f"PREFECT_API_URL={url} prefect deployment run phase2-gate/phase2-gate"


def main(argv: Sequence[str]) -> int:
    """Serve until interrupted.

    Raises:
        EnvironmentNotReadyError: there is no server and none can be started.
    """
    argparse.ArgumentParser(prog="pirl serve", description=__doc__).parse_args(list(argv))
    url = get_current_settings().api.url
    if url is None:
        raise EnvironmentNotReadyError(
            "no address of a Prefect server is set",
            remedy="run from the repository root, where prefect.toml lies",
        )
    with ProcessGroup() as group:
        if not is_up(url):
            group.add(start_server(url))
        sys.stderr.write(
            f"Prefect answers at {url}; in another terminal, from this folder:\n"
            f"  {run_command(url)} --watch -p profile=embedded\n"
        )
        serve(
            phase2_gate.to_deployment(
                name="phase2-gate",
                parameters={"variant": "flow-sde"},
                tags=["gate"],
                concurrency_limit=ConcurrencyLimitConfig(
                    limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE
                ),
            ),
            limit=2,
        )
    return 0


if __name__ == "__main__":
    sys.exit(run_guarded(main, sys.argv[1:]))
