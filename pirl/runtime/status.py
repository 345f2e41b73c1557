"""`pirl status RUN` and `pirl watch RUN`: how far a run is, from its folder alone.

Owns what is read (metric rows, records, owners of folders) and its two texts. Talks to no process, imports no
torch, and changes nothing. Read `pirl.runtime.layout` for the files.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pirl.config.arguments import status_parser, watch_parser
from pirl.config.command_line import parse
from pirl.config.strictjson import read_json_object
from pirl.errors import EvidenceError, ExitCode, UsageError
from pirl.journal.metric_log import read_json_lines
from pirl.journal.stats import format_rate
from pirl.ownership import owner_of
from pirl.runtime.layout import RunFolder
from pirl.runtime.pace import RECENT, duration, left_s


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """A run at one moment."""

    state: str
    """`running`, the reason that the learner wrote when it ended, or `ended without a word`."""
    updates: int
    total_updates: int
    left_s: float | None
    """Estimate for the rest of the run; null when it is over or less than two updates are done."""
    successes: int
    episodes: int
    """Of the last update."""
    recent_successes: int
    recent_episodes: int
    """Of the last ten updates."""
    policy_version: int
    lag_max: int
    """Versions that the oldest decision of the last update was behind."""
    actors: int
    """What the config asks for."""
    actors_alive: tuple[str, ...]
    """Those on this machine."""
    checkpoint: str | None
    """Name of the last one's folder."""
    rss_mib: float | None
    """Resident memory of the learner at the last update."""

    @property
    def is_running(self) -> bool:
        """Whether the learner still owns the folder."""
        return self.state == "running"

    @property
    def exit_code(self) -> ExitCode:
        """0 for a run that runs or has finished."""
        good = self.state in ("running", "finished")
        return ExitCode.OK if good else ExitCode.CHECK_FAILED


def read_status(root: Path) -> RunStatus:
    """The status of the run in `root`.

    Raises:
        UsageError: it is no run folder, or its learner has not begun to write.
        EvidenceError: a file of it is malformed.
    """
    folder = RunFolder(root)
    runtime = _runtime(folder)
    rows = (
        read_json_lines(folder.learner_metrics, allow_torn_tail=True)
        if folder.learner_metrics.exists()
        else []
    )
    last: Mapping[str, Any] = rows[-1]["metrics"] if rows else {}
    updates, total = int(rows[-1]["step"]) if rows else 0, int(runtime["total_updates"])
    state = "running" if owner_of(root) is not None else _how_it_ended(folder)
    recent = [row["metrics"] for row in rows[-RECENT:]]
    times = [float(row["elapsed_s"]) for row in rows[-RECENT - 1 :]]
    latest = root / "checkpoints" / "last"
    actors = sorted(path for path in root.glob("actor-*") if path.is_dir())
    return RunStatus(
        state=state,
        updates=updates,
        total_updates=total,
        left_s=left_s(times, total - updates) if state == "running" else None,
        successes=int(last.get("rollout/successes", 0)),
        episodes=int(last.get("rollout/episodes", 0)),
        recent_successes=sum(int(row.get("rollout/successes", 0)) for row in recent),
        recent_episodes=sum(int(row.get("rollout/episodes", 0)) for row in recent),
        policy_version=int(last.get("version/current", 0)),
        lag_max=int(last.get("version/lag_max", 0)),
        actors=int(runtime["actors"]),
        actors_alive=tuple(path.name for path in actors if owner_of(path) is not None),
        checkpoint=latest.resolve().name if latest.exists() else None,
        rss_mib=last.get("system/rss_mib"),
    )


def status_text(status: RunStatus) -> str:
    """The status for a person."""
    left = "" if status.left_s is None else f", about {duration(status.left_s)} left"
    rows = {
        "state": status.state,
        "update": f"{status.updates} of {status.total_updates}{left}",
        "successes": _rate(status.successes, status.episodes) + " in the last update",
        "": f"{_rate(status.recent_successes, status.recent_episodes)} in the last {RECENT} updates",
        "version": f"{status.policy_version}, decisions at most {status.lag_max} behind",
        "actors": f"{len(status.actors_alive)} of {status.actors} alive"
        + "".join(f", {name}" for name in status.actors_alive),
        "checkpoint": status.checkpoint or "none yet",
        "memory": "not known yet"
        if status.rss_mib is None
        else f"{status.rss_mib:.0f} MiB (learner)",
    }
    return "".join(f"{name:<10}  {text}\n" for name, text in rows.items())


def main(argv: Sequence[str]) -> int:
    """Command line of `pirl status`; exit code 1 for a run that failed."""
    args, _ = parse(status_parser(), argv)
    status = read_status(args.run)
    answer = asdict(status) | {"running": status.is_running}
    sys.stdout.write(json.dumps(answer, indent=1) + "\n" if args.json else status_text(status))
    return int(status.exit_code)


def watch_main(argv: Sequence[str]) -> int:
    """Command line of `pirl watch`: on a terminal one page that changes, elsewhere a line per update."""
    args, _ = parse(watch_parser(), argv)
    shown: RunStatus | None = None
    while True:
        status = read_status(args.run)
        if sys.stdout.isatty():
            # Home and clear: the page stays where it is.
            sys.stdout.write("\x1b[H\x1b[J" + status_text(status))
        elif shown is None or (shown.updates, shown.state) != (status.updates, status.state):
            sys.stdout.write(_line(status))
        sys.stdout.flush()
        if not status.is_running:
            return int(status.exit_code)
        shown = status
        time.sleep(args.every)


def _runtime(folder: RunFolder) -> Mapping[str, Any]:
    file = folder.effective_config("learner")
    try:
        found: Any = read_json_object(file)["runtime"]
        return {name: found[name] for name in ("total_updates", "actors")}
    except OSError as error:
        raise UsageError(
            f"{folder.root} is no run folder, or its learner has not begun: there is no"
            f" {file.relative_to(folder.root)}"
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise EvidenceError(f"{file} is not the config of a learner: {error!r}") from error


def _how_it_ended(folder: RunFolder) -> str:
    try:
        return str(read_json_object(folder.run_record)["exit_reason"])
    except (OSError, KeyError, ValueError):
        return "ended without a word"


def _rate(successes: int, episodes: int) -> str:
    return format_rate(successes, episodes) if episodes else "no episode"


def _line(status: RunStatus) -> str:
    left = "" if status.left_s is None else f", about {duration(status.left_s)} left"
    return (
        f"update {status.updates} of {status.total_updates}, {status.state}{left}; successes"
        f" {_rate(status.successes, status.episodes)}; {len(status.actors_alive)} actors alive\n"
    )
