"""`run.json`: what a process did and how it ended, on disk before anything that takes time.

Owns when a record is written: in the first moment of a stop, when the process ends, and once more when all of
it is known. Refuses to know what the facts mean. Read `pirl.runtime.learner` next.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pirl.errors import EnvironmentNotReadyError, PirlError
from pirl.files import write_json
from pirl.hooks import hooks_active
from pirl.runtime.procs import first_act

logger = logging.getLogger(__name__)


class RunRecord:
    """The record of one process; as a context manager it is written when a signal or an error ends the block."""

    def __init__(
        self,
        path: Path,
        *,
        role: str,
        keep_earlier: bool = False,
        is_ours: Callable[[], bool] = lambda: True,
    ) -> None:
        """
        Args:
            keep_earlier: a signal or an error does not replace the record of an earlier process, until this
                one called `write`: a resume that is refused must not cost what is on disk.
            is_ours: whether the folder is this process's to write in; asked before each write.
        """
        self._keep_earlier = keep_earlier
        self._path = path
        self._is_ours = is_ours
        self._reason: str | None = None
        self._stack = ExitStack()
        self.facts: dict[str, Any] = {
            "role": role,
            "pid": os.getpid(),
            "hooks": list(hooks_active()),
        }
        """Written with every record; whoever learns more adds it."""

    def __enter__(self) -> Self:
        self._stack.enter_context(first_act(self._note_stop))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()
        if error is not None and self._reason is None and not self._keep_earlier:
            self.write(reason_of(error))

    def _note_stop(self) -> None:
        if self._reason is None and not (self._keep_earlier and self._path.exists()):
            self.write("interrupted")

    def write(self, reason: str, *, complete: bool = False) -> None:
        """Replace the record by what is known now.

        With an error under way a record that cannot be written is only logged: the error says more.

        Args:
            complete: everything is known; a record of a process that was killed on its way out says false.

        Raises:
            EnvironmentNotReadyError: the record cannot be written.
        """
        self._reason = reason
        if not self._is_ours():
            return
        under_way = sys.exception()
        try:
            write_json(self._path, {**self.facts, "exit_reason": reason, "complete": complete})
        except EnvironmentNotReadyError as error:
            if under_way is None:
                raise
            logger.error("the record is lost: %s", error)


def reason_of(error: BaseException) -> str:
    """Why a process ended, for its record."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    text = str(error) if isinstance(error, PirlError) else str(error).split("\n", 1)[0]
    return f"{type(error).__name__}: {text}"
