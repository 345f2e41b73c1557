"""The processes that compute one update together, each with a share of its decisions.

Owns what an update asks of the others: what all of them said, gradients summed, rows put together, and an error of
one raised in all. Refuses to know how bytes travel; `pirl.runtime.team` implements it with torch.distributed. Read
`pirl.algorithm.update` next.

Process r of W owns rows r, r + W, ... of every batch (sorted alike everywhere), encodes and trains on those alone,
and holds the observations of no other. Every call of a `Replicas` method is made by all processes, in one order:
whatever decides a branch around one is the same in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from pirl.errors import NumericsError, ParityError, PirlError
from pirl.records import Context, Observation


class Replicas(Protocol):
    """What the processes of one learner do together."""

    @property
    def rank(self) -> int:
        """0 .. size - 1."""
        ...

    @property
    def size(self) -> int: ...

    def exchange(self, said: Any) -> list[Any]:
        """What every process said, in the order of ranks; the same everywhere.

        Any: JSON values; floats arrive to the bit.
        """
        ...

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its sum over the processes, the same bits everywhere, in place.

        A parameter without a gradient in every process keeps none.
        """
        ...

    def gather_rows(self, own: Tensor, count: int) -> Tensor:
        """A tensor of all `count` rows of a batch from the rows that each process owns; no value is changed."""
        ...


class Alone:
    """One process that owns every row: nothing is asked, nothing is copied."""

    rank = 0
    size = 1

    def exchange(self, said: Any) -> list[Any]:
        """`said` alone."""
        return [said]

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Leave them as they are."""

    def gather_rows(self, own: Tensor, count: int) -> Tensor:
        """`own`, which is all of it."""
        return own


ALONE = Alone()


@dataclass(frozen=True, slots=True)
class Part[T: (Context, Observation)]:
    """The observations or contexts of the rows that this process owns, asked for by their row in the batch."""

    held: T
    size: int
    """Processes."""

    def index(self, rows: Tensor) -> T:
        """Those of `rows`, all of which this process owns, in that order."""
        return self.held.index(rows // self.size)


def own_rows(replicas: Replicas, count: int) -> Int64[Tensor, " n"]:
    """The rows of a batch of `count` that this process owns, ascending."""
    return torch.arange(replicas.rank, count, replicas.size)


def owned_among(replicas: Replicas, rows: Int64[Tensor, " M"]) -> Int64[Tensor, " m"]:
    """Those of `rows` that this process owns, in that order."""
    return rows[rows % replicas.size == replicas.rank]


def most_owned(replicas: Replicas, rows: Int64[Tensor, " M"]) -> int:
    """How many of `rows` the process with the most of them owns."""
    return int(torch.bincount(rows % replicas.size, minlength=replicas.size).max())


def spread(own: Tensor, rows: Int64[Tensor, " n"], count: int) -> Tensor:
    """The own rows of a tensor of `count` rows at their places, 0 elsewhere, where nobody looks."""
    if len(own) == count:
        return own
    return own.new_zeros(count, *own.shape[1:]).index_copy(0, rows, own)


def agreed[T](replicas: Replicas, work: Callable[[], T]) -> T:
    """Do `work`, which asks nothing of the others; an error of one process is raised in all of them.

    Raises:
        ParityError: as some process raised it, with the episodes of all that did.
        NumericsError: some process raised another error of pirl; the first one's words.
    """
    return _together(replicas, work, say=lambda _: None)[0]


def gathered(replicas: Replicas, work: Callable[[], Any]) -> list[Any]:
    """As `agreed`, with what `work` returned in every process, in the order of ranks; Any as in `exchange`."""
    return _together(replicas, work, say=lambda result: result)[1]


def _together[T](
    replicas: Replicas, work: Callable[[], T], *, say: Callable[[T], Any]
) -> tuple[T, list[Any]]:
    if replicas.size == 1:
        result = work()
        return result, [say(result)]
    try:
        result = work()
    except PirlError as error:
        raise _verdict(replicas.exchange({"error": _described(error)})) from error
    told = replicas.exchange({"error": None, "said": say(result)})
    if any(one["error"] for one in told):
        raise _verdict(told)
    return result, [one["said"] for one in told]


def _described(error: PirlError) -> dict[str, Any]:
    gaps = error.gaps.items() if isinstance(error, ParityError) else None
    return {"text": str(error), "gaps": None if gaps is None else [list(gap) for gap in gaps]}


def _verdict(told: list[Any]) -> NumericsError:
    """The one error that all processes raise: a fault of the learner before a lie of an actor."""
    wrong = {rank: one["error"] for rank, one in enumerate(told) if one["error"]}
    own_faults = [rank for rank, error in wrong.items() if error["gaps"] is None]
    first = own_faults[0] if own_faults else min(wrong)
    text = f"learner process {first}: {wrong[first]['text']}"
    if own_faults:
        return NumericsError(text)
    gaps: dict[int, float] = {}
    for error in wrong.values():
        for episode, gap in error["gaps"]:
            gaps[int(episode)] = max(gaps.get(int(episode), 0.0), gap)
    return ParityError(text, gaps=gaps)
