"""Which of a learner's processes this one is, by the variables that torchrun sets.

Owns RANK, WORLD_SIZE and LOCAL_RANK, and the refusal of a number of processes that the config does not say.
Imports nothing heavy. Read `pirl.runtime.team` next.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pirl.errors import ConfigError, FieldError

RENDEZVOUS = "PIRL_LEARNER_RENDEZVOUS"
"""How the processes find each other, as torch's `init_method`; unset: MASTER_ADDR and MASTER_PORT, as under
torchrun. `pirl launch` names a file, which opens no port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """The place of a process among the processes of one learner."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Among those on its machine; the number of its GPU."""

    @property
    def role(self) -> str:
        """Its name in logs and folders: `learner` owns the run, `learner-1` and so on compute with it."""
        return role_of(self.rank)


def role_of(rank: int) -> str:
    """The role of the process of that rank."""
    return "learner" if rank == 0 else f"learner-{rank}"


def own_seat() -> Seat:
    """By the environment; one process where it says nothing.

    Raises:
        ConfigError: a variable is missing or no number, or the rank is not one of them.
    """
    size, rank = _number("WORLD_SIZE", 1), _number("RANK", 0)
    if not 0 <= rank < size:
        raise _refused("RANK", rank, f"0 <= RANK < WORLD_SIZE ({size})")
    for name in ("MASTER_ADDR", "MASTER_PORT") if size > 1 and RENDEZVOUS not in os.environ else ():
        if not os.environ.get(name):
            raise _refused(name, os.environ.get(name), "where the processes meet")
    return Seat(rank=rank, size=size, local_rank=_number("LOCAL_RANK", rank))


def require_size(seat: Seat, wanted: int) -> None:
    """Stop when there are other processes than the config says.

    Args:
        wanted: `parallelism.dp_replicate`.

    Raises:
        ConfigError: with both numbers.
    """
    if seat.size == wanted:
        return
    raise ConfigError(
        [
            FieldError(
                field="parallelism.dp_replicate",
                value=wanted,
                expected=f"the number of learner processes that were started, {seat.size} (WORLD_SIZE)",
                fix=f"start {wanted} (`pirl launch --learner-processes {wanted}`, or torchrun "
                f"--nproc-per-node), or say parallelism.dp_replicate={seat.size} to learner and actors; a "
                "resumed run writes the change down",
            )
        ]
    )


def seats_here(size: int, folder: Path) -> list[dict[str, str]]:
    """The environment of each of `size` learner processes on this machine; {} for a single one.

    Args:
        folder: empty, of this user's own; the processes meet in a file there.
    """
    if size == 1:
        return [{}]
    return [
        {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(size),
            RENDEZVOUS: f"file://{(folder / 'rendezvous').absolute()}",
            # What they send each other is neither encrypted nor signed: it stays on this machine.
            "GLOO_SOCKET_IFNAME": "lo",
        }
        for rank in range(size)
    ]


def device_of(seat: Seat, device: str) -> str:
    """`runtime.learner_device` of one of several processes: of the GPUs of its machine, the one of its number."""
    return f"cuda:{seat.local_rank}" if device == "cuda" and seat.size > 1 else device


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise _refused(name, text, "a whole number")
    return int(text)


def _refused(name: str, value: object, expected: str) -> ConfigError:
    wrong = FieldError(
        field=name,
        value=value,
        expected=expected,
        fix="start the learner with `pirl launch` or torchrun, which set it, or unset it",
    )
    return ConfigError([wrong], source="environment")
