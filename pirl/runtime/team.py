"""The processes of one learner, joined by torch.distributed: the first leads, the others compute with it.

Owns the process groups, the commands of the first process and the translation of torch's errors. Refuses to know
what is computed, and to unpickle: what travels is JSON, raw numbers and safetensors. Gradients are summed by one
plain all-reduce and not by a wrapper of the module (DDP), which would synchronise in `forward` only: pirl calls
`encode` and `predict`, and would train unsynchronised without a word. Read `pirl.runtime.follower` next.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from enum import IntEnum
from functools import reduce
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pirl.errors import LinkClosedError, NumericsError
from pirl.records import DecisionBatch
from pirl.runtime.batch import packed, unpacked
from pirl.runtime.seat import RENDEZVOUS, Seat

logger = logging.getLogger(__name__)

_NEVER = timedelta(days=365)
"""Of groups whose waits have a deadline of their own here."""
_POLL_S = 0.002
_GOODBYE_S = 5.0
_HEARD_S = 0.5
"""After a collective failed, a process that is gone is heard of by name within this time."""
_ASKS_TO_STOP, _IS_DONE = 1, 2
"""What a process says to the first one beside the commands."""


class Command(IntEnum):
    """What the first process tells the others to do next."""

    UPDATE = 1
    COMPARE = 2
    END = 3


class Team:
    """All processes of one learner, from one of them; `pirl.algorithm.replicas.Replicas` for an update.

    Every method that talks to the others raises LinkClosedError when one is gone or silent for too long.
    """

    def __init__(
        self, seat: Seat, *, wait_s: float, command_s: float, device: str, stop: threading.Event
    ) -> None:
        """Meet the others.

        Args:
            wait_s: how long processes at work together wait for each other.
            command_s: how long the others wait for a command of the first one.
            device: of the gradients.
            stop: set when a process is gone, or was told to stop.
        """
        self.rank, self.size = seat.rank, seat.size
        self._wait_s, self._command_s = wait_s, command_s
        self._stop = stop
        self._gone: dict[int, str] = {}
        self._has_asked = False
        self._listeners: list[threading.Thread] = []
        backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
        with self._linked("could not meet"):
            dist.init_process_group(
                backend,
                init_method=os.environ.get(RENDEZVOUS, "env://"),
                rank=seat.rank,
                world_size=seat.size,
                timeout=timedelta(seconds=wait_s),
            )
            self._commands = cast(
                "dist.ProcessGroup", dist.new_group(backend="gloo", timeout=_NEVER)
            )
            self._words = cast("dist.ProcessGroup", dist.new_group(backend="gloo", timeout=_NEVER))
        self._listeners = [
            threading.Thread(target=self._listen, args=(rank,), name=f"learner-{rank}", daemon=True)
            for rank in range(1, self.size if self.rank == 0 else 1)
        ]
        for listener in self._listeners:
            listener.start()

    # -- Replicas ----------------------------------------------------------------------------------

    def exchange(self, said: Any) -> list[Any]:
        """What every process said, in the order of ranks (JSON values; floats to the bit)."""
        own = torch.frombuffer(bytearray(json.dumps(said).encode()), dtype=torch.uint8)
        with self._linked("no answer"):
            lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
            dist.all_gather(lengths, torch.tensor([len(own)]))
            longest = max(int(length) for length in lengths)
            padded = torch.zeros(longest, dtype=torch.uint8)
            padded[: len(own)] = own
            told = [torch.empty_like(padded) for _ in range(self.size)]
            dist.all_gather(told, padded)
        texts = (t[: int(n)].numpy().tobytes() for t, n in zip(told, lengths, strict=True))
        return [json.loads(text) for text in texts]

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """One all-reduce over one flat buffer, fp32 or wider; see `Replicas.sum_gradients`."""
        members = list(parameters)
        if not members:
            return
        dtype = reduce(torch.promote_types, (p.dtype for p in members), torch.float32)
        sizes = [p.numel() for p in members]
        # Behind the gradients: in how many processes each one is there.
        flat = torch.zeros(sum(sizes) + len(members), dtype=dtype, device=members[0].device)
        *parts, present = flat.split([*sizes, len(members)])
        for index, (parameter, part) in enumerate(zip(members, parts, strict=True)):
            if parameter.grad is not None:
                part.copy_(parameter.grad.reshape(-1))
                present[index] = 1
                parameter.grad = None
        with self._linked("no gradients"):
            dist.all_reduce(flat)
        for parameter, part, count in zip(members, parts, present.tolist(), strict=True):
            if count:
                parameter.grad = part.view_as(parameter).to(parameter.dtype)

    def gather_rows(self, own: Tensor, count: int) -> Tensor:
        """All `count` rows from the rows rank, rank + size, ... of each process."""
        most = -(-count // self.size)
        padded = torch.zeros(most, *own.shape[1:], dtype=own.dtype)
        padded[: len(own)] = own.cpu()
        told = [torch.empty_like(padded) for _ in range(self.size)]
        with self._linked("no rows"):
            dist.all_gather(told, padded)
        return torch.stack(told, dim=1).flatten(0, 1)[:count].to(own.device)

    # -- commands ----------------------------------------------------------------------------------

    def share(self, batch: DecisionBatch) -> DecisionBatch:
        """First process: have all of them update on `batch`; returns the own share of it."""
        self._command(Command.UPDATE)
        with self._linked("could not send a batch"):
            for rank in range(1, self.size):
                blob = torch.frombuffer(
                    bytearray(packed(_share_of(batch, rank, self.size))), dtype=torch.uint8
                )
                dist.send(torch.tensor([len(blob)]), dst=rank)
                dist.send(blob, dst=rank)
        return _share_of(batch, 0, self.size)

    def receive(self) -> DecisionBatch:
        """Another process: its share of the batch, after `Command.UPDATE`."""
        length = torch.zeros(1, dtype=torch.int64)
        with self._linked("no batch"):
            dist.recv(length, src=0)
            blob = torch.empty(int(length), dtype=torch.uint8)
            dist.recv(blob, src=0)
        return unpacked(blob.numpy().tobytes())

    def compare(self, digests: Callable[[], Mapping[str, str]]) -> None:
        """First process: require that every process holds the same tensors.

        Args:
            digests: of this process's tensors, by name.

        Raises:
            NumericsError: the first tensor that differs, and in which process.
        """
        self._command(Command.COMPARE)
        self.compare_own(digests())

    def compare_own(self, digests: Mapping[str, str]) -> None:
        """The part in `compare` of every process, the first one included; raises alike in all of them."""
        told = self.exchange(dict(digests))
        for name in sorted(set().union(*told)):
            others = [rank for rank, one in enumerate(told) if one.get(name) != told[0].get(name)]
            if others:
                raise NumericsError(
                    f"learner processes disagree about {name}: "
                    f"{told[0].get(name)} in process 0, {told[others[0]].get(name)} in process {others[0]}\n"
                    "  fix: resume from the last checkpoint; processes with different GPUs, drivers or "
                    "libraries do not compute the same bits"
                )

    def end(self, code: int) -> None:
        """First process: the run is over; the others end with `code`. One that is gone is no error here."""
        with suppress(LinkClosedError):
            self._command(Command.END, code)
            for listener in self._listeners:
                listener.join(_GOODBYE_S)
            if not any(listener.is_alive() for listener in self._listeners):
                dist.destroy_process_group()

    def next_command(self) -> tuple[Command, int]:
        """Another process: what to do next, with its argument."""
        order = torch.zeros(2, dtype=torch.int64)
        with self._linked("no command"):
            work = dist.broadcast(order, src=0, group=self._commands, async_op=True)
            self._finish(work, self._command_s, "runtime.version_timeout_s")
        return Command(int(order[0])), int(order[1])

    def leave(self) -> None:
        """Another process: after `Command.END`, the last word to the first one."""
        with suppress(LinkClosedError), self._linked("could not say goodbye"):
            dist.send(torch.tensor([_IS_DONE]), dst=0, group=self._words)

    def require_all(self) -> None:
        """First process: stop when another one is gone.

        Raises:
            LinkClosedError: which one.
        """
        for rank, why in sorted(self._gone.items()):
            raise LinkClosedError(f"learner process {rank} is gone: {why}")

    # -- inside ------------------------------------------------------------------------------------

    def _command(self, command: Command, argument: int = 0) -> None:
        self.require_all()
        order = torch.tensor([command, argument])
        with self._linked("could not command"):
            work = dist.broadcast(order, src=0, group=self._commands, async_op=True)
            self._finish(work, self._wait_s, "runtime.replica_timeout_s")

    def _finish(self, work: Any, limit_s: float, named: str) -> None:
        """Wait in steps, so that this process hears its signals; Any: torch's handle of a collective."""
        end = time.monotonic() + limit_s
        while not work.is_completed():
            if time.monotonic() > end:
                raise LinkClosedError(
                    f"another learner process was silent for {limit_s:g} s ({named})"
                )
            if self._stop.is_set() and self.rank > 0 and not self._has_asked:
                # Only the first process may end the run; whoever told this one may not have told it.
                self._has_asked = True
                dist.send(torch.tensor([_ASKS_TO_STOP]), dst=0, group=self._words)
            time.sleep(_POLL_S)
        work.wait()

    def _listen(self, rank: int) -> None:
        """First process, a thread for each other one: hear its words, and its end however it came about."""
        word = torch.zeros(1, dtype=torch.int64)
        while True:
            try:
                dist.recv(word, src=rank, group=self._words)
            except RuntimeError as error:
                self._gone[rank] = str(error).splitlines()[0]
                self._stop.set()
                return
            if int(word) == _IS_DONE:
                return
            logger.info("learner process %d was told to stop", rank)
            self._stop.set()

    @contextmanager
    def _linked(self, what: str) -> Generator[None]:
        """torch tells of a lost or silent process by a RuntimeError."""
        try:
            yield
        except RuntimeError as error:
            lines = str(error).splitlines() or [type(error).__name__]
            end = time.monotonic() + _HEARD_S
            while self._listeners and not self._gone and time.monotonic() < end:
                time.sleep(_POLL_S)
            self.require_all()
            raise LinkClosedError(
                f"learner process {self.rank}: {what}: another learner process is gone, or silent for "
                f"{self._wait_s:g} s (runtime.replica_timeout_s): {lines[0]}"
            ) from error


class Solo:
    """The one process of a learner that has no others, in the place of a `Team`."""

    def share(self, batch: DecisionBatch) -> DecisionBatch:
        """All of it."""
        return batch

    def compare(self, digests: Callable[[], Mapping[str, str]]) -> None:
        """Nobody to compare with."""

    def end(self, code: int) -> None:
        """Nobody to tell."""

    def require_all(self) -> None:
        """Everybody is here."""


def _share_of(batch: DecisionBatch, rank: int, size: int) -> DecisionBatch:
    """`batch` with the observations of the rows that a process owns."""
    rows = torch.arange(rank, len(batch), size)
    return replace(
        batch,
        observation=batch.observation.index(rows),
        next_observation=batch.next_observation.index(rows),
    )
