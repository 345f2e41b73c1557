"""A learner or an actor in a process of its own, for tests that kill or freeze one.

Called with a JSON object: role, rank and fields of `RuntimeConfig`. Prints one line per event.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "transport"))

from transport_builders import (
    RecordingSink,
    a_rollout_done,
    a_schema,
    an_identity,
    some_transitions,
    some_weights,
)

from pirl.config.recipe import RuntimeConfig
from pirl.errors import PirlError
from pirl.transport.client import ActorLink
from pirl.transport.server import LearnerServer


def say(event: str, **values: object) -> None:
    sys.stdout.write(json.dumps({"event": event, **values}) + "\n")
    sys.stdout.flush()


def be_learner(runtime: RuntimeConfig) -> int:
    """Publish version 0, then serve until killed."""
    server = LearnerServer(an_identity(), runtime=runtime, schema=a_schema(), sink=RecordingSink())
    server.start()
    server.publish(0, some_weights())
    say("listening", port=server.port)
    time.sleep(120)
    return 1


def be_actor(runtime: RuntimeConfig, rank: int) -> int:
    """One rollout per version until the link ends."""
    link = ActorLink(an_identity(run_id=""), runtime=runtime, rank=rank)
    try:
        link.connect(30)
        say("connected", actor_id=link.actor_id)
        version = -1
        while (message := link.wait_for_version(version + 1, timeout_s=60)) is not None:
            if message.final:
                say("final")
                return 0
            version = message.version
            link.send_transitions(some_transitions(2))
            link.send_interaction(a_rollout_done(version=version, rank=rank, decisions=2))
            say("sent", version=version)
    except PirlError as error:
        say("error", type=type(error).__name__, text=str(error))
        return int(error.exit_code)
    finally:
        link.close()
    return 1


def main() -> int:
    logging.basicConfig(level=logging.INFO)
    options = json.loads(sys.argv[1])
    role, rank = options.pop("role"), options.pop("rank", 0)
    runtime = RuntimeConfig(**options)
    return be_learner(runtime) if role == "learner" else be_actor(runtime, rank)


if __name__ == "__main__":
    sys.exit(main())
