"""Hostile messages against a living learner: bounded in count, seeded, one command.

    python benchmarks/chaos.py --messages 20000 --seed 0 --out chaos.json
    python benchmarks/chaos.py --short

A learner with two ranks serves over loopback gRPC. An honest actor holds rank 0 all the time; a hostile
one attacks, under a contact of its own and under stolen names. A failure is: the learner does not answer,
the honest actor was given up or lost a decision, a hostile message was kept as it is, or a call met
anything but a deliberate status. The exit code is 1 when there was one.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import psutil
from lerobot.transport import services_pb2, services_pb2_grpc
from lerobot.transport.utils import send_bytes_in_chunks

sys.path.insert(0, str(Path(__file__).parent))

from wire import IDENTITY, a_schema, an_episode

from pirl.config.recipe import RuntimeConfig
from pirl.runtime.store import RolloutStore
from pirl.transport import identity, messages
from pirl.transport.client import ActorLink
from pirl.transport.server import LearnerServer
from pirl.transport.wire import encode_transitions, limits_of_rollout

HOSTILE_RANK = 1
CALL_S = 20.0
WARM_UP = 200
"""Messages before memory is measured."""
DELIBERATE = {
    "INVALID_ARGUMENT",
    "UNAUTHENTICATED",
    "ALREADY_EXISTS",
    "RESOURCE_EXHAUSTED",
    "ABORTED",
}

type Attack = Callable[[random.Random], tuple[str, bytes]]


def attacks() -> dict[str, Attack]:
    """Name, and what makes (call, bytes) of it; every one is wrong, whatever the random numbers are."""
    decisions = an_episode(a_schema())[:1]
    whole = encode_transitions(decisions)
    report = {"type": "rollout_done", "rank": 0, "decisions": 1, "episodes": []}

    def cut(rng: random.Random) -> tuple[str, bytes]:
        return "SendTransitions", whole[: rng.randrange(1, len(whole))]

    def opcodes(rng: random.Random) -> tuple[str, bytes]:
        return "SendTransitions", bytes([rng.choice(b"}](N)a")]) * rng.randrange(1, 2**20)

    def noise(rng: random.Random) -> tuple[str, bytes]:
        return "SendTransitions", rng.randbytes(rng.randrange(1, 2**16))

    def number(rng: random.Random) -> tuple[str, bytes]:
        item = {**decisions[0], "reward": rng.choice([3e38, 1e25, -1e9, float("nan")])}
        return "SendTransitions", encode_transitions([item])  # pyright: ignore[reportArgumentType]

    def deep(rng: random.Random) -> tuple[str, bytes]:
        text = rng.choice([b"[", b'{"a":']) * rng.randrange(4, 2**15)
        return "SendInteractions", messages.with_checksum(text)

    def foreign_report(rng: random.Random) -> tuple[str, bytes]:
        changed = {**report, "version": rng.randrange(9)}
        return "SendInteractions", messages.encode_interaction(changed)

    makers = (cut, opcodes, noise, number, deep, foreign_report)
    return {maker.__name__: maker for maker in makers}


class Enemy:
    """Attacks one learner; under its own contact, or under the honest actor's name."""

    def __init__(self, port: int, honest_id: str) -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_http_proxy", 0)])
        self._stub: Any = services_pb2_grpc.LearnerServiceStub(self._channel)
        self._honest_id = honest_id

    def strike(self, call: str, raw: bytes, *, steals_name: bool) -> str:
        """Send one message; the status it met."""
        try:
            metadata = self._forged() if steals_name else self._own()
            kind = {"SendTransitions": "Transition", "SendInteractions": "InteractionMessage"}[call]
            pieces = send_bytes_in_chunks(raw, getattr(services_pb2, kind))
            getattr(self._stub, call)(pieces, metadata=metadata, timeout=CALL_S)
        except grpc.RpcError as error:
            return error.code().name  # pyright: ignore[reportAttributeAccessIssue]
        return "OK"

    def _own(self) -> Any:
        who = {"actor_id": "enemy", "rank": HOSTILE_RANK, "token": None}
        metadata = (*IDENTITY.to_metadata(), *identity.caller_metadata(**who))
        empty = services_pb2.Empty()  # pyright: ignore[reportAttributeAccessIssue]
        _, call = self._stub.Ready.with_call(empty, metadata=metadata, timeout=CALL_S)
        secret = identity.text_of(call.initial_metadata(), identity.SECRET_KEY)
        return (*metadata, (identity.SECRET_KEY, secret))

    def _forged(self) -> Any:
        caller = identity.caller_metadata(actor_id=self._honest_id, rank=0, token=None)
        return (*IDENTITY.to_metadata(), *caller)

    def close(self) -> None:
        self._channel.close()


def run(count: int, seed: int) -> dict[str, Any]:
    """The table: attempts and failures by kind, and memory."""
    schema = a_schema()
    store = RolloutStore(actors=2, mode="sync", staleness_threshold=0)
    runtime = RuntimeConfig(port=0, actors=2)
    server = LearnerServer(
        IDENTITY,
        runtime=runtime,
        schema=schema,
        sink=store,
        limits=limits_of_rollout(schema, decisions=4),
    )
    rng, makers = random.Random(seed), attacks()
    attempts, failures = Counter[str](), Counter[str]()
    statuses: Counter[str] = Counter()
    runtime = RuntimeConfig(port=server.start(), actors=2)
    before = 0
    with ActorLink(IDENTITY, runtime=runtime, rank=0).connect(30) as honest:
        enemy = Enemy(server.port, honest.actor_id)
        for number in range(count):
            if number == min(WARM_UP, count // 2):
                before = psutil.Process().memory_info().rss
            name = rng.choice(sorted(makers))
            steals_name = rng.random() < 0.2
            status = enemy.strike(*makers[name](rng), steals_name=steals_name)
            name += " under a stolen name" if steals_name else ""
            attempts[name] += 1
            statuses[status] += 1
            failures[name] += status not in DELIBERATE
        enemy.close()
        after = psutil.Process().memory_info().rss
        failures["honest actor lost"] += 0 not in server.alive_ranks()
        failures["hostile decisions kept"] += store.counters()["held"]
    counters = server.counters()
    server.stop()
    return {
        "messages": count,
        "seed": seed,
        "attempts": dict(sorted(attempts.items())),
        "statuses": dict(sorted(statuses.items())),
        "failures": {name: n for name, n in sorted(failures.items()) if n},
        "rss_mib_before": before / 2**20,
        "rss_mib_after": after / 2**20,
        "refused": {k: v for k, v in sorted(counters.items()) if "refused" in k},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="500 messages")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    table = run(500 if args.short else args.messages, args.seed)
    text = json.dumps(table, indent=2)
    if args.out is not None:
        args.out.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 1 if table["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
