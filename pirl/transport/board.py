"""The newest publication and those who wait for it: encoded once, read by every actor's stream.

Owns order and wake-ups, no wall clock. Refuses to know who reads. Read `pirl.transport.service`
next.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """One version as it travels."""

    version: int
    payload: bytes


class Board:
    """The latest publication; every reader keeps its own cursor and takes it from nobody."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._latest: Publication | None = None
        self._is_final = False

    @property
    def is_final(self) -> bool:
        """Whether nothing more will be published because the run is complete."""
        return self._is_final

    def put(self, publication: Publication) -> None:
        """Replace the latest publication and wake every reader.

        Raises:
            ValueError: the version does not rise.
        """
        with self._changed:
            if self._latest is not None and publication.version <= self._latest.version:
                raise ValueError(
                    f"version {publication.version} after version {self._latest.version}"
                )
            self._latest = publication
            self._changed.notify_all()

    def finalise(self) -> None:
        """Let readers end once they have seen the latest publication."""
        with self._changed:
            self._is_final = True
            self._changed.notify_all()

    def wake(self) -> None:
        """Let readers look at their own condition again."""
        with self._changed:
            self._changed.notify_all()

    def next_after(self, cursor: int, *, goes_on: Callable[[], bool]) -> Publication | None:
        """The latest publication above `cursor`, once there is one; None ends the reader."""
        with self._changed:
            while goes_on():
                if self._latest is not None and self._latest.version > cursor:
                    return self._latest
                if self._is_final:
                    return None
                # Every event wakes; the timeout only bounds the harm of one that did not.
                self._changed.wait(timeout=1.0)
        return None
