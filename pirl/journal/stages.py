"""Where the seconds of a process went, by stage, from its metric rows.

Owns which times are stages and which are sums of others. Read `pirl.runtime.profile` next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_PREFIX, _SUFFIX = "time/", "_s"
_SUMS = ("time/wall_s", "time/collect_s")
"""They hold other stages; beside them those would be counted twice."""


def stage_totals(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Seconds by stage, the longest first.

    Args:
        rows: metrics of every row, by name; a stage's time is that of the row.
    """
    totals: dict[str, float] = {}
    for row in rows:
        for name, value in row.items():
            if name.startswith(_PREFIX) and name not in _SUMS:
                stage = name.removeprefix(_PREFIX).removesuffix(_SUFFIX)
                totals[stage] = totals.get(stage, 0.0) + value
    return dict(sorted(totals.items(), key=lambda item: -item[1]))
