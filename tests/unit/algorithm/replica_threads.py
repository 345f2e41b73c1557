"""`Replicas` of threads, for tests of what an update asks of the others; `pirl.runtime.team` has the processes."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

DEADLINE_S = 60.0
"""Only of a test that fails: another thread asks something else, or nothing."""


class Thread:
    """One of `size` threads; what each says is passed on in order."""

    def __init__(self, rank: int, mailboxes: list[list[queue.Queue[Any]]]) -> None:
        self.rank, self.size = rank, len(mailboxes)
        self._mailboxes = mailboxes
        """By sender and receiver."""

    def say(self, said: Any) -> None:
        for box in self._mailboxes[self.rank]:
            box.put(said)

    def _told(self, said: Any) -> list[Any]:
        self.say(said)
        told = [boxes[self.rank].get(timeout=DEADLINE_S) for boxes in self._mailboxes]
        if any(isinstance(one, GoneError) for one in told):
            raise GoneError
        return told

    def exchange(self, said: Any) -> list[Any]:
        return [json.loads(text) for text in self._told(json.dumps(said))]

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        members = list(parameters)
        told = self._told([None if p.grad is None else p.grad.clone() for p in members])
        for parameter, parts in zip(members, zip(*told, strict=True), strict=True):
            there = [part for part in parts if part is not None]
            parameter.grad = torch.stack(there).sum(dim=0) if there else None

    def gather_rows(self, own: Tensor, count: int) -> Tensor:
        whole = own.new_zeros(count, *own.shape[1:])
        for rank, part in enumerate(self._told(own.clone())):
            whole[rank :: self.size] = part
        return whole


class GoneError(Exception):
    """Another thread ended with an error."""


def in_threads[T](size: int, work: Callable[[Thread], T]) -> list[T]:
    """What `work` returns in each of `size` threads that run it together.

    Raises:
        Exception: that of the first thread which failed by itself.
    """
    mailboxes = [[queue.Queue() for _ in range(size)] for _ in range(size)]
    results: dict[int, T] = {}
    errors: dict[int, Exception] = {}

    def run(replicas: Thread) -> None:
        try:
            results[replicas.rank] = work(replicas)
        except Exception as error:  # noqa: BLE001  (raised again by the caller)
            errors[replicas.rank] = error
            replicas.say(GoneError())

    threads = [
        threading.Thread(target=run, args=[Thread(rank, mailboxes)], daemon=True)
        for rank in range(size)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise next((e for e in errors.values() if not isinstance(e, GoneError)), GoneError())
    return [results[rank] for rank in range(size)]
