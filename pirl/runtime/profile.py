"""`pirl profile RUN`: where seconds and bytes of a run went, per stage, on both sides.

Owns what is read (metric rows of learner and actors) and its two texts. Talks to no process, imports no torch,
and changes nothing. Read `pirl.journal.stages` next.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pirl.config.arguments import profile_parser
from pirl.config.command_line import parse
from pirl.errors import UsageError
from pirl.journal.metric_log import MetricRow, parse_rows, read_json_lines
from pirl.journal.stages import stage_totals
from pirl.runtime.layout import RunFolder

WAITING = "wait"
"""The stage in which a process waits for the other side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SideProfile:
    """One process of a run."""

    role: str
    """`learner` or `actor-RANK`."""
    updates: int
    """Rows that were read."""
    wall_s: float
    """From the start of the process to its last row."""
    cpu_s: float | None
    """Its CPU seconds, simulator workers included."""
    stages: Mapping[str, float]
    """Seconds by stage, the longest first; what no stage claims is the rest of `wall_s`."""
    moved: Mapping[str, float]
    """Bytes by what was moved."""

    @property
    def idle(self) -> float:
        """Share of the time in which it waited for the other side."""
        return self.stages.get(WAITING, 0.0) / self.wall_s if self.wall_s else 0.0


def read_profile(root: Path) -> list[SideProfile]:
    """Every process of the run in `root` that wrote a row, the learner first.

    Raises:
        UsageError: there is no row.
        EvidenceError: a file is malformed.
    """
    folder = RunFolder(root)
    actors = sorted(root.glob("actor-*/metrics.jsonl"), key=lambda path: (len(str(path)), path))
    sides = [
        _side(path.parent.name, rows)
        for path in (folder.learner_metrics, *actors)
        if path.exists() and (rows := _rows(path))
    ]
    if not sides:
        raise UsageError(
            f"{root} is no run folder, or nothing in it has finished an update: there is no row in"
            " learner/metrics.jsonl"
        )
    return sides


def _rows(path: Path) -> list[MetricRow]:
    return parse_rows(read_json_lines(path, allow_torn_tail=True), source=path.name)


def _side(role: str, rows: Sequence[MetricRow]) -> SideProfile:
    last = rows[-1].metrics
    # Of a version every actor gets the same bytes; the other two counters add up by themselves.
    moved = {
        "decisions": last.get("link/bytes_sent", last.get("link/bytes_received", 0.0)),
        "parameters": sum(row.metrics.get("link/param_bytes", 0.0) for row in rows),
    }
    return SideProfile(
        role=role,
        updates=len(rows),
        wall_s=last.get("time/wall_s", 0.0),
        cpu_s=last.get("system/cpu_s"),
        stages=stage_totals(row.metrics for row in rows),
        moved={what: count for what, count in moved.items() if count},
    )


def profile_text(sides: Sequence[SideProfile]) -> str:
    """The profile for a person."""
    lines: list[str] = []
    for side in sides:
        cpu = "" if side.cpu_s is None else f", {side.cpu_s:.1f} CPU s"
        lines.append(
            f"{side.role}: {side.updates} updates in {side.wall_s:.1f} s{cpu}, {side.idle:.0%} waiting"
        )
        rest = side.wall_s - sum(side.stages.values())
        for stage, seconds in (*side.stages.items(), ("(no stage)", rest)):
            share = seconds / side.wall_s if side.wall_s else 0.0
            lines.append(f"  {stage:<12}{seconds:>10.2f} s {share:>6.1%}")
        lines += [f"  {what:<12}{count / 1e6:>10.2f} MB" for what, count in side.moved.items()]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str]) -> int:
    """Command line of `pirl profile`."""
    args, _ = parse(profile_parser(), argv)
    sides = read_profile(args.run)
    answer = [asdict(side) | {"idle": side.idle} for side in sides]
    sys.stdout.write(json.dumps(answer, indent=1) + "\n" if args.json else profile_text(sides))
    return 0
