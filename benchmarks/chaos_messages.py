"""Hostile messages against a learner in its own process, while an honest actor in another one holds its place.

Owns the attacks, the enemy and the memory of the two processes. Afterwards an honest second actor comes and
the run goes to its end, which must be the undisturbed one's.
"""

from __future__ import annotations

import random
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import psutil
from chaos_runs import (
    ACTORS,
    LEARNER,
    SETTINGS,
    TRIAL_S,
    Tended,
    Trial,
    Undisturbed,
    outcome_of,
)
from lerobot.transport import services_pb2, services_pb2_grpc
from lerobot.transport.utils import send_bytes_in_chunks
from wire import an_episode

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "integration"))

from toy_run import CONFIG, a_run, wait_for

from pirl.config.load import load_config
from pirl.gate import forked
from pirl.runtime.session import Session, build_session
from pirl.transport import identity, messages
from pirl.transport.identity import Identity
from pirl.transport.wire import encode_transitions

CAMPAIGN = "hostile messages"
HOSTILE_RANK = 1
CALL_S = 30.0
WARM_UP = 6000
"""Messages before memory is measured: the learner remembers its last 4,096 enemies and 1,280 refusals."""
GROWTH = 0.05
"""Memory may grow by this part, of the learner and of the honest actor."""
DELIBERATE = {
    "INVALID_ARGUMENT",
    "UNAUTHENTICATED",
    "ALREADY_EXISTS",
    "RESOURCE_EXHAUSTED",
    "ABORTED",
}

type Attack = Callable[[random.Random], tuple[str, bytes]]


def attacks(session: Session) -> dict[str, Attack]:
    """Name, and what makes (call, bytes) of it; every one is wrong, whatever the random numbers are."""
    decision = an_episode(session.schema)[0]
    whole = encode_transitions([decision])

    def size(rng: random.Random, bits: int) -> int:
        return rng.randrange(1, 2 ** rng.randrange(1, bits + 1))

    def cut(rng: random.Random) -> tuple[str, bytes]:
        return "SendTransitions", whole[: rng.randrange(1, len(whole))]

    def flipped(rng: random.Random) -> tuple[str, bytes]:
        raw = bytearray(whole)
        for _ in range(rng.randrange(1, 9)):
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        return "SendTransitions", bytes(raw)

    def opcodes(rng: random.Random) -> tuple[str, bytes]:
        return "SendTransitions", bytes([rng.choice(b"}](N)a")]) * size(rng, 20)

    def noise(rng: random.Random) -> tuple[str, bytes]:
        return "SendTransitions", rng.randbytes(size(rng, 16))

    def number(rng: random.Random) -> tuple[str, bytes]:
        item = {**decision, "reward": rng.choice([3e38, 1e25, -1e9, float("nan")])}
        return "SendTransitions", encode_transitions([item])  # pyright: ignore[reportArgumentType]

    def meaning(rng: random.Random) -> tuple[str, bytes]:
        # Right in every shape and range; an episode that no actor of this run can have played.
        return "SendTransitions", encode_transitions([decision] * rng.randrange(1, 4))

    def deep(rng: random.Random) -> tuple[str, bytes]:
        text = rng.choice([b"[", b'{"a":']) * (3 + size(rng, 15))
        return "SendInteractions", messages.with_checksum(text)

    def pickled(rng: random.Random) -> tuple[str, bytes]:
        return "SendInteractions", b"\x80\x04" + rng.randbytes(size(rng, 10)) + b"]"

    def foreign_report(rng: random.Random) -> tuple[str, bytes]:
        report = {"type": "rollout_done", "version": rng.randrange(9), "rank": 0}
        report |= {"decisions": 1, "episodes": []}
        return "SendInteractions", messages.encode_interaction(report)

    makers = (cut, flipped, opcodes, noise, number, meaning, deep, pickled, foreign_report)
    return {maker.__name__.replace("_", " "): maker for maker in makers}


class Enemy:
    """Attacks one learner; under its own contact, or under the honest actor's name."""

    def __init__(self, port: int, ours: Identity, honest_id: str) -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_http_proxy", 0)])
        self._stub: Any = services_pb2_grpc.LearnerServiceStub(self._channel)
        self._claims = ours.to_metadata()
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
        metadata = (*self._claims, *identity.caller_metadata(**who))
        empty = services_pb2.Empty()  # pyright: ignore[reportAttributeAccessIssue]
        _, call = self._stub.Ready.with_call(empty, metadata=metadata, timeout=CALL_S)
        secret = identity.text_of(call.initial_metadata(), identity.SECRET_KEY)
        return (*metadata, (identity.SECRET_KEY, secret))

    def _forged(self) -> Any:
        caller = identity.caller_metadata(actor_id=self._honest_id, rank=0, token=None)
        return (*self._claims, *caller)

    def close(self) -> None:
        self._channel.close()


class Memory:
    """Resident memory of some processes, from outside; the largest after the warm-up."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids = pids
        self.before: dict[str, float] = {}
        self.largest: dict[str, float] = {}

    def sample(self, *, is_warm: bool) -> None:
        for name, pid in self._pids.items():
            found = psutil.Process(pid).memory_info().rss / 2**20
            if not is_warm:
                self.before[name] = found
            self.largest[name] = max(found, 0.0 if not is_warm else self.largest[name])

    def failures(self) -> list[str]:
        return [
            f"memory: {name} grew from {self.before[name]:.0f} to {largest:.0f} MiB"
            for name, largest in self.largest.items()
            if largest > self.before[name] * (1 + GROWTH)
        ]


def a_trial(number: int, *, seed: int, count: int, root: Path, wanted: Undisturbed) -> Trial:
    """`count` messages in one run, and then the run to its end."""
    folder = root / f"hostile-{number}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started = time.monotonic()
    with a_run(folder, **SETTINGS) as run:
        tended = Tended(run)
        for role in (LEARNER, ACTORS[0]):
            tended.start(role)
        wait_for(lambda: "version 0: " in tended.log_of(ACTORS[0]) or _has_ended(tended))
        numbers = _attack(tended, random.Random(f"{seed}/{CAMPAIGN}/{number}"), count)
        tended.start(ACTORS[1])
        deadline = time.monotonic() + TRIAL_S
        while time.monotonic() < deadline and tended.tend():
            time.sleep(0.02)
        tended.end()
        outcome = outcome_of(tended, wanted)
    if not tended.failures:
        shutil.rmtree(folder, ignore_errors=True)
    return Trial(
        campaign=CAMPAIGN,
        number=number,
        seed=seed,
        seconds=round(time.monotonic() - started, 1),
        attempts=dict(tended.attempts),
        failures=tended.failures,
        outcome=outcome,
        numbers=numbers,
    )


def _has_ended(tended: Tended) -> bool:
    return any(process.poll() is not None for process in tended.processes.values())


def _attack(tended: Tended, rng: random.Random, count: int) -> dict[str, float]:
    session = build_session(
        load_config(CONFIG, list(tended.run.overrides)), device="cpu", run_id=""
    )
    makers = attacks(session)
    honest = re.search(r"actor '(\S+)' may come in as rank 0", tended.log_of(LEARNER))
    enemy = Enemy(tended.run.port, session.identity, honest.group(1) if honest else "")
    memory = Memory({role: forked_pid(process) for role, process in tended.processes.items()})
    warm_up = min(WARM_UP, count // 3)
    statuses, surprises = Counter[str](), Counter[str]()
    began = time.monotonic()
    for done in range(count):
        if done == warm_up or (done > warm_up and done % 500 == 0):
            memory.sample(is_warm=done > warm_up)
        name = rng.choice(sorted(makers))
        steals_name = rng.random() < 0.2
        status = enemy.strike(*makers[name](rng), steals_name=steals_name)
        tended.attempts[name] += 1
        statuses[status] += 1
        # A stock actor's interactions are pickles: they are counted and never loaded, and it stays.
        if status not in DELIBERATE and (name, status) != ("pickled", "OK"):
            surprises[f"not refused: {name} met {status}"] += 1
        if _has_ended(tended):
            tended.failures.append(
                f"learner ended: or the honest actor, after message {done}: {name}"
            )
            break
    memory.sample(is_warm=True)
    tended.failures += [f"{text}, {n} times" for text, n in surprises.items()]
    tended.failures += memory.failures()
    enemy.close()
    rss = {f"{role} MiB before": round(mib, 1) for role, mib in memory.before.items()}
    rss |= {f"{role} MiB largest": round(mib, 1) for role, mib in memory.largest.items()}
    seconds = time.monotonic() - began
    return {**rss, **statuses, "attack_s": round(seconds, 1)}


def forked_pid(process: forked.Forked) -> int:
    return process.process.pid or 0
