"""Several simulator slots driven together, in this process or in workers.

Owns the spread of slots over workers, the split check on every plan and the words of simulator
errors. Refuses to know which simulator runs. Read `pirl.envs.host` next.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
from jaxtyping import Float32

from pirl.envs.base import (
    Array,
    ChunkResult,
    EnvInfo,
    EnvObservation,
    PendingChunk,
    SlotPlan,
    SlotSettings,
)
from pirl.envs.host import Deadlines, Host, LocalHost, ProcessHost, as_they_answer
from pirl.envs.protocol import Observations, Reply, Request, Reset, Results, Step
from pirl.envs.split import StateSplit, assert_allowed
from pirl.errors import ConfigError, EnvError, FieldError, PirlError

if TYPE_CHECKING:
    from pirl.episodes import EpisodePlan


class Codec(Protocol):
    """What stands between a slot's raw values and the policy; runs in the parent."""

    def decode(self, observation: EnvObservation) -> EnvObservation:
        """Raw slot observation to what the policy sees."""
        ...

    def encode(self, chunk: Float32[Array, "*B D"]) -> Float32[Array, "*B A"]:
        """Postprocessed policy rows to simulator actions."""
        ...


class IdentityCodec:
    """For simulators whose values are the policy's already."""

    def decode(self, observation: EnvObservation) -> EnvObservation:
        return observation

    def encode(self, chunk: Float32[Array, "*B D"]) -> Float32[Array, "*B A"]:
        return chunk


_SMALL_REQUEST = 1 << 16
"""Bytes of action rows that a worker's socket takes while the worker waits for room for an answer of its own."""


@dataclass(slots=True, eq=False)
class _Asked:
    """What several workers were asked together; each request with the slots it is for."""

    slots: Mapping[int, list[int]]
    """By worker."""
    replies: dict[int, Reply] = field(default_factory=dict[int, Reply])

    @property
    def is_answered(self) -> bool:
        return len(self.replies) == len(self.slots)


@dataclass(frozen=True, slots=True)
class _Pending:
    """The `PendingChunk` of this module."""

    results: Callable[[], dict[int, ChunkResult]]


class SlotVectorEnv:
    """`VectorEnv` over slots; slot i lives in worker i mod W.

    After an error it is closed for good: replies of other workers may still be under way, so there
    is no state to go on from. Build a new one.
    """

    def __init__(
        self,
        settings: SlotSettings,
        *,
        info: EnvInfo,
        codec: Codec,
        split: StateSplit,
        num_envs: int,
        num_workers: int,
        deadlines: Deadlines | None = None,
    ) -> None:
        self.num_envs = num_envs
        self.info = info
        self._codec = codec
        self._split = split
        self._deadlines = deadlines or Deadlines()
        self._plans: dict[int, EpisodePlan] = {}
        self._closed = False
        self._hosts: list[Host] = []
        self._open: dict[int, deque[_Asked]] = {}
        try:
            self._hosts = self._build(settings, num_workers)
        except PirlError:
            self.close()
            raise

    @property
    def task_names(self) -> tuple[str, ...]:
        """Task names by task id."""
        return self.info.task_names

    def instruction(self, task_id: int) -> str:
        """The language instruction of a task."""
        return self.info.instructions[task_id]

    def reset(self, plans: Mapping[int, EpisodePlan]) -> dict[int, EnvObservation]:
        """Start episodes in the given slots; see `VectorEnv.reset`."""
        for slot, plan in plans.items():
            self._check_plan(slot, plan)
        self._plans.update(plans)
        per_host = {
            host: {
                slot // len(self._hosts): SlotPlan(
                    task_id=plan.task_id, init_state_id=plan.init_state_id, seed=plan.seed
                )
                for slot, plan in plans.items()
                if slot % len(self._hosts) == host
            }
            for host in range(len(self._hosts))
        }
        asked = self._ask_all(
            {host: Reset(plans=local) for host, local in per_host.items() if local},
            per_slot_s=self._deadlines.reset_s,
            verb="resetting",
            slots=plans,
        )
        found = {
            self._slot(host, local): self._codec.decode(observation)
            for host, reply in self._answers(asked).items()
            for local, observation in _expect(reply, Observations).by_slot.items()
        }
        return {slot: found[slot] for slot in plans}

    def step_chunk(self, actions: Mapping[int, Float32[Array, "E A"]]) -> dict[int, ChunkResult]:
        """Execute one chunk in each of the given slots; see `VectorEnv.step_chunk`."""
        return self.start_chunk(actions).results()

    def start_chunk(self, actions: Mapping[int, Float32[Array, "E A"]]) -> PendingChunk:
        """Execute one chunk in each of the given slots meanwhile; see `VectorEnv.start_chunk`."""
        per_host = {
            host: {
                slot // len(self._hosts): np.asarray(rows, dtype=np.float32)
                for slot, rows in actions.items()
                if slot % len(self._hosts) == host
            }
            for host in range(len(self._hosts))
        }
        asked = self._ask_all(
            {host: Step(actions=local) for host, local in per_host.items() if local},
            per_slot_s=self._deadlines.step_s,
            verb="stepping",
            slots=actions,
        )
        order = tuple(actions)

        def results() -> dict[int, ChunkResult]:
            found = {
                self._slot(host, local): self._decode(result)
                for host, reply in self._answers(asked).items()
                for local, result in _expect(reply, Results).by_slot.items()
            }
            return {slot: found[slot] for slot in order}

        return _Pending(results)

    def to_env_actions(self, chunk: Float32[Array, "*B D"]) -> Float32[Array, "*B A"]:
        """Postprocessed policy rows to what the simulator executes."""
        return self._codec.encode(np.asarray(chunk, dtype=np.float32))

    def close(self) -> None:
        """End every worker; idempotent."""
        self._closed = True
        for host in self._hosts:
            host.close()
        self._hosts = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _build(self, settings: SlotSettings, num_workers: int) -> list[Host]:
        if num_workers == 0:
            return [LocalHost(settings, self.num_envs)]
        hosts: list[ProcessHost] = []
        try:
            for index in range(num_workers):
                count = len(range(index, self.num_envs, num_workers))
                hosts.append(
                    ProcessHost(settings, count, index=index, deadline_s=self._deadlines.start_s)
                )
            for index in as_they_answer(dict(enumerate(hosts))):
                hosts[index].wait_built()
        except PirlError:
            for host in hosts:
                host.close()
            raise
        return list(hosts)

    def _ask_all(
        self,
        requests: Mapping[int, Request],
        *,
        per_slot_s: float,
        verb: str,
        slots: Mapping[int, object],
    ) -> _Asked:
        """Send one request to each worker; a worker that has others does it after those."""
        if self._closed:
            raise EnvError("this vector environment is closed")
        mine = {host: [s for s in slots if s % len(self._hosts) == host] for host in requests}
        asked = _Asked(mine)
        for host, request in requests.items():
            while self._open.get(host) and _size(request) > _SMALL_REQUEST:
                self._take(host)
            self._open.setdefault(host, deque()).append(asked)
            asking = partial(
                self._hosts[host].ask,
                request,
                deadline_s=per_slot_s * len(mine[host]),
                doing=f"{verb} {'; '.join(self._describe(slot) for slot in mine[host])}",
            )
            self._talk(host, asking)
        return asked

    def _answers(self, asked: _Asked) -> dict[int, Reply]:
        """The reply of every worker that was asked, whatever else they answer before."""
        while not asked.is_answered:
            if self._closed:
                raise EnvError("this vector environment is closed")
            # All that are at work, so that the death of any is seen.
            self._take(next(as_they_answer({h: self._hosts[h] for h in self._open})))
        return asked.replies

    def _take(self, host: int) -> None:
        """Read the next reply of a worker, for whom it is."""
        reply = self._talk(host, self._hosts[host].answer)
        waiting = self._open[host]
        waiting.popleft().replies[host] = reply
        if not waiting:
            del self._open[host]

    def _talk[T](self, host: int, act: Callable[[], T]) -> T:
        """Ask a worker or hear it; its failure closes everything and is blamed on what it was asked first."""
        # No context manager: its frame in the traceback crashed the collector of Python 3.12.1.
        try:
            return act()
        except EnvError as error:
            self._abandon()
            raise EnvError(str(error), slots=self._open[host][0].slots[host]) from error
        except PirlError:
            self._abandon()
            raise

    def _abandon(self) -> None:
        """End every worker at once: one in the middle of a request would not hear that it may go."""
        for host in self._hosts:
            if isinstance(host, ProcessHost):
                host.kill()
        self.close()

    def _slot(self, host: int, local: int) -> int:
        return local * len(self._hosts) + host

    def _describe(self, slot: int) -> str:
        plan = self._plans.get(slot)
        if plan is None:
            return f"slot {slot} (no episode)"
        return (
            f"slot {slot}, task {self.task_names[plan.task_id]!r}, initial state"
            f" {plan.init_state_id}, seed {plan.seed}"
        )

    def _check_plan(self, slot: int, plan: EpisodePlan) -> None:
        if not 0 <= plan.task_id < len(self.task_names):
            raise ConfigError(
                [
                    FieldError(
                        field=f"plan of slot {slot}: task_id",
                        value=plan.task_id,
                        expected=f"0 to {len(self.task_names) - 1}",
                        fix="plan with the task names of this environment",
                    )
                ]
            )
        assert_allowed(plan, split=self._split, task=self.task_names[plan.task_id])

    def _decode(self, result: ChunkResult) -> ChunkResult:
        start = time.perf_counter()
        observation = self._codec.decode(result.observation)
        spent = {"preprocess_s": time.perf_counter() - start}
        return replace(result, observation=observation, timings={**result.timings, **spent})


def _expect[T](reply: Reply, kind: type[T]) -> T:
    if not isinstance(reply, kind):
        raise EnvError(f"a simulator worker answered {type(reply).__name__}")
    return reply


def _size(request: Request) -> int:
    """Bytes of the action rows in a request; the rest of it is small."""
    return sum(rows.nbytes for rows in request.actions.values()) if isinstance(request, Step) else 0


def check_counts(num_envs: int, num_workers: int) -> None:
    """Refuse slot counts that make no sense.

    Raises:
        ConfigError: `num_envs` < 1, or more workers than slots, or a negative number of workers.
    """
    problems: list[FieldError] = []
    if num_envs < 1:
        problems.append(
            FieldError(
                field="runtime.envs_per_actor", value=num_envs, expected=">= 1", fix="set 1 or more"
            )
        )
    if not 0 <= num_workers <= max(num_envs, 0):
        problems.append(
            FieldError(
                field="runtime.env_workers",
                value=num_workers,
                expected=f"0 (this process) to {num_envs}",
                fix="use at most one worker per environment",
            )
        )
    if problems:
        raise ConfigError(problems)
