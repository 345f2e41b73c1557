"""Serve the deployment `phase2-gate/phase2-gate`: `pirl serve`, or `python -m flows.serve`.

Starts a Prefect server on loopback when none answers, then runs the deployment in this process; each flow run
is a subprocess. Ends both on Ctrl-C.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

HOST = "127.0.0.1"
PORT = 4200
_START_S = 180.0


def is_up(url: str) -> bool:
    """Whether a Prefect server answers at `url`."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2.0) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def start_server(url: str, *, port: int) -> subprocess.Popen[bytes] | None:
    """A server of our own in its own session, or None when one answers already.

    Raises:
        TimeoutError: the server does not answer within its deadline.
    """
    if is_up(url):
        return None
    server = subprocess.Popen(
        [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + _START_S
    while not is_up(url):
        if server.poll() is not None or time.monotonic() > deadline:
            server.terminate()
            raise TimeoutError(f"no Prefect server at {url} within {_START_S:.0f} s")
        time.sleep(0.5)
    return server


def main() -> None:
    """Serve until interrupted."""
    port = int(os.environ.get("PIRL_PREFECT_PORT", PORT))
    url = f"http://{HOST}:{port}/api"
    server = start_server(url, port=port)
    os.environ["PREFECT_API_URL"] = url
    try:
        # Prefect reads its settings when it is imported.
        from prefect import serve
        from prefect.client.schemas.objects import (
            ConcurrencyLimitConfig,
            ConcurrencyLimitStrategy,
        )

        from flows.phase2_gate import phase2_gate

        deployment = phase2_gate.to_deployment(
            name="phase2-gate",
            parameters={"variant": "flow-sde"},
            tags=["gate"],
            concurrency_limit=ConcurrencyLimitConfig(
                limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE
            ),
        )
        serve(deployment, limit=2)
    finally:
        if server is not None:
            server.terminate()
            server.wait(timeout=20)


if __name__ == "__main__":
    main()
