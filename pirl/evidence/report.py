"""The report of a bundle: verdict first, then every criterion, then what was not tested.

Owns wording and layout of `report.md` and `report.html`. Both are pure functions of the bundle's
other files, so the verifier writes them again and compares: an edited report is found. Read
`pirl.evidence.report_html` next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pirl.evidence.criteria import IS_TRUE, STEPS
from pirl.evidence.raw import read_object
from pirl.evidence.stats import format_rate

WORDS = {"passed": "PASS", "failed": "FAIL", "not run": "NOT RUN"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """The files that a report is made of."""

    verdict: Mapping[str, Any]
    criteria: Mapping[str, list[Mapping[str, Any]]]
    """By step."""
    run: Mapping[str, Any]
    source: Mapping[str, Any]
    environment: Mapping[str, Any]

    @property
    def headline(self) -> str:
        """The verdict in capitals; a fallback says so."""
        word, bracket, rest = str(self.verdict["label"]).partition(" (")
        return word.upper() + bracket + rest

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What the verdict is about, as (name, value)."""
        counts = self.verdict["criteria"]
        dirty = "dirty, patch " + str(self.source["patch_sha256"])[:12]
        tree = dirty if self.source["git_dirty"] else "clean"
        return [
            ("Criteria", f"{counts['passed']} of {counts['total']} passed"),
            ("Profile", f"{self.verdict['profile']}{self._reason}"),
            ("Variant", str(self.verdict["variant"])),
            ("Code", f"{str(self.source['git_commit'])[:12]} ({tree})"),
            ("Config", f"{self.verdict['config_path']} @ {str(self.verdict['config_hash'])[:12]}"),
            ("Policy", f"version {self.verdict['policy_version']}, "
             f"{str(self.verdict['policy_digest'])[:12]}"),
            ("Run", f"{self.run['started_utc']} to {self.run['ended_utc']}, "
             f"by {self.run['launched_by']}, nonce {str(self.run['nonce'])[:12]}"),
            ("Machine", f"{self.environment['cpu']}, {self.environment['cpu_usable']} cores, "
             f"{self.environment['memory_gib']} GiB; numerics {self.verdict['numerics']}"),
        ]  # fmt: skip

    @property
    def ended_early(self) -> list[tuple[str, str]]:
        """Steps that could not do their work, after which no other started, and why."""
        entries = {step: self.run["steps"].get(step, {}) for step in STEPS}
        return [
            (step, str(entry.get("error") or entry["stopped_by"]))
            for step, entry in entries.items()
            if entry.get("stopped_by")
        ]

    @property
    def _reason(self) -> str:
        reason = str(self.verdict["profile_reason"])
        return f" ({reason})" if reason else ""

    def counts(self, step: str) -> tuple[int, int, int]:
        """Criteria of a step that passed, failed, were not run."""
        verdicts = [str(c["verdict"]) for c in self.criteria[step]]
        return verdicts.count("passed"), verdicts.count("failed"), verdicts.count("not run")

    @property
    def open_items(self) -> list[Mapping[str, Any]]:
        """Criteria that did not pass."""
        return [c for step in STEPS for c in self.criteria[step] if c["verdict"] != "passed"]


def read_report_data(bundle: Path) -> ReportData:
    """Everything a report needs, from the files of a bundle.

    Raises:
        EvidenceError: a file is not JSON.
        OSError, LookupError: a file or one of its fields is missing.
    """
    return ReportData(
        verdict=read_object(bundle / "verdict.json"),
        criteria={
            step: list(read_object(bundle / "criteria" / f"{step}.json")["criteria"])
            for step in STEPS
        },
        run=read_object(bundle / "metadata" / "run.json"),
        source=read_object(bundle / "metadata" / "source.json"),
        environment=read_object(bundle / "metadata" / "environment.json"),
    )


def show_value(value: object) -> str:
    """A measured value or threshold for a reader."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)) and math.isfinite(value):
        return f"{value:g}"
    return str(value)


def show_requirement(criterion: Mapping[str, Any]) -> str:
    """What a criterion asks for: `<= 0.001 nats`."""
    if criterion["comparator"] == IS_TRUE:
        return "yes"
    parts = (criterion["comparator"], show_value(criterion["threshold"]), criterion["unit"])
    return " ".join(str(part) for part in parts if part != "")


def show_outcome(outcome: Mapping[str, Any]) -> str:
    """One line per task: counts, interval, and what became of the failures."""
    rate = format_rate(outcome["successes"], outcome["episodes"])
    states = len(outcome["initial_states"])
    return (
        f"{outcome['task']} ({outcome['phase']}): {rate}; {outcome['timeouts']} time-outs, "
        f"{outcome['errors']} errors; {states} initial states"
    )


def _cell(text: object) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def _code(text: str) -> str:
    return text.replace("`", "'")


def _table(header: str, rows: list[tuple[object, ...]]) -> list[str]:
    columns = header.count("|") + 1
    lines = [f"| {header} |", "|" + "---|" * columns]
    return lines + ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]


def _compact(criteria: list[Mapping[str, Any]]) -> list[str]:
    """All criteria of a step, two in a row, so that a report keeps to two pages; the page explains each."""
    cells = [
        (WORDS[c["verdict"]], str(c["name"]).split("/")[1], show_value(c["measured"]),
         show_requirement(c))
        for c in criteria
    ]  # fmt: skip
    half = (len(cells) + 1) // 2
    left, right = cells[:half], [*cells[half:], ("", "", "", "")]
    header = "| criterion | measured | required" * 2
    return _table(header, [(*a, *b) for a, b in zip(left, right, strict=False)])


def render_markdown(bundle: Path) -> str:
    """The text of `report.md`."""
    data = read_report_data(bundle)
    lines = [f"# Phase-2 gate: {data.headline}", "", str(data.verdict["claim"]), ""]
    lines += _table("step | verdict | passed | failed | not run", [
        (step, WORDS[data.verdict["steps"][step]], *data.counts(step)) for step in STEPS
    ])  # fmt: skip
    for step, error in data.ended_early:
        lines += ["", f"**{step} ended early**, and no further step started: `{_code(error)}`"]
    lines += ["", *(f"- **{name}** {value}" for name, value in data.facts), ""]
    if data.open_items:
        lines += ["## Not passed", ""]
        lines += _table("criterion | verdict | measured | required | detail", [
            (c["name"], WORDS[c["verdict"]], show_value(c["measured"]), show_requirement(c),
             c["detail"])
            for c in data.open_items
        ])  # fmt: skip
        lines.append("")
    for step in STEPS:
        lines += [f"## {step}", "", *_compact(data.criteria[step]), ""]
    lines += ["## Episodes", "", str(data.verdict["non_claim"]), ""]
    lines += [f"- {show_outcome(outcome)}" for outcome in data.verdict["episodes"]] or ["- none"]
    lines += ["", "## Not tested", "", *(f"- {limit}" for limit in data.verdict["limits"])]
    lines += ["", "## Check it", "", *CHECK_IT]
    return "\n".join(lines) + "\n"


CHECK_IT = (
    "What each criterion means and what the records say is in [report.html](report.html).",
    "`pirl verify .` in this folder, offline, recomputes every measured value from `raw/` and",
    "exits with 0 only if nothing was altered and the gate passed. Exact commands:",
    "[commands.txt](commands.txt). Raw records: [raw/](raw/), logs: [logs/](logs/), pictures and",
    "video: [media/](media/), thresholds as fixed before the run: [policy.json](policy.json),",
    "digests: [manifest.json](manifest.json), statement: [statement.json](statement.json).",
)


def render_html(bundle: Path) -> str:
    """The text of `report.html`: one file, no network, pictures inside."""
    from pirl.evidence.report_html import render_page

    return render_page(bundle, read_report_data(bundle))
