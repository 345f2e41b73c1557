"""The report of a bundle: verdict first, then what did not pass, then the rest, then what was not tested.

Owns wording and layout of `report.md`, and what both reports show. Both are pure functions of the bundle's other
files, so the verifier writes them again and compares: an edited report is found. Read `pirl.audit.page` next.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pirl.audit.criterion import IS_TRUE
from pirl.audit.records.files import STEPS
from pirl.journal.fields import read_object
from pirl.journal.stats import format_rate

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
        """The verdict in capitals; a fallback, or a config of one's own, says so."""
        word, bracket, rest = str(self.verdict["label"]).partition(" (")
        return word.upper() + bracket + rest

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What the verdict is about, as (name, value)."""
        counts, signer = self.verdict["criteria"], self.run["signed_by"]
        dirty = "dirty, patch " + str(self.source["patch_sha256"])[:12]
        tree = dirty if self.source["git_dirty"] else "clean"
        reason = str(self.verdict["profile_reason"])
        return [
            ("Criteria", f"{counts['passed']} of {counts['total']} passed"),
            ("Reward", self._reward),
            ("Profile", str(self.verdict["profile"]) + (f" ({reason})" if reason else "")),
            ("Variant", str(self.verdict["variant"])),
            ("Code", f"{str(self.source['git_commit'])[:12]} ({tree})"),
            ("Config", f"{self.verdict['config_path']} @ {str(self.verdict['config_hash'])[:12]}"),
            ("Policy", f"version {self.verdict['policy_version']}, "
             f"{str(self.verdict['policy_digest'])[:12]}"),
            ("Run", f"{self.run['started_utc']} to {self.run['ended_utc']}, "
             f"by {self.run['launched_by']}, nonce {str(self.run['nonce'])[:12]}"),
            ("Signed", f"by the key {signer[:12]}; `pirl verify --key PUB` checks it" if signer
             else "no; who can rewrite every record can forge it: compare its digest"),
            ("Machine", f"{self.environment['cpu']}, {self.environment['cpu_usable']} cores, "
             f"{self.environment['memory_gib']} GiB; numerics {self.verdict['numerics']}"),
        ]  # fmt: skip

    @property
    def _reward(self) -> str:
        """In the first lines: a run that never saw a success says little about learning."""
        outcomes = self.verdict["episodes"]
        won, ran = (sum(o[key] for o in outcomes) for key in ("successes", "episodes"))
        return f"{won} of {ran} episodes succeeded" + ("" if won else "; no success was seen")

    @property
    def ended_early(self) -> list[tuple[str, str]]:
        """Steps that could not do their work, after which no other started, and why."""
        entries = {step: self.run["steps"].get(step, {}) for step in STEPS}
        return [
            (step, str(entry.get("error") or entry["stopped_by"]))
            for step, entry in entries.items()
            if entry.get("stopped_by")
        ]

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
        f"{outcome['task']}: {rate}; {outcome['timeouts']} time-outs, {outcome['errors']} simulator errors, "
        f"{outcome['interrupted']} interrupted; {states} initial states"
    )


def escaped(text: object) -> str:
    """A text of the records inside Markdown: no markup, no HTML and no line break comes out of it."""
    plain = re.sub(r"([\\`*\[\]|~])", r"\\\1", " ".join(str(text).split()))
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _table(header: str, rows: list[tuple[object, ...]]) -> list[str]:
    columns = header.count("|") + 1
    lines = [f"| {header} |", "|" + "---|" * columns]
    return lines + ["| " + " | ".join(escaped(cell) for cell in row) + " |" for row in rows]


def _compact(criteria: list[Mapping[str, Any]]) -> list[str]:
    """All criteria of a step, two in a row, so that a report keeps to two pages; the page explains each."""
    cells = [
        (WORDS[c["verdict"]], str(c["name"]).split("/")[1], show_value(c["measured"]),
         show_requirement(c))
        for c in criteria
    ]  # fmt: skip
    half = (len(cells) + 1) // 2
    left, right = cells[:half], [*cells[half:], ("", "", "", "")]
    header = " | ".join([" | criterion | measured | required"] * 2)
    return _table(header, [(*a, *b) for a, b in zip(left, right, strict=False)])


def render_markdown(bundle: Path) -> str:
    """The text of `report.md`."""
    data = read_report_data(bundle)
    lines = [f"# Phase-2 gate: {escaped(data.headline)}", "", str(data.verdict["claim"]), ""]
    lines += _table("step | verdict | passed | failed | not run", [
        (step, WORDS[data.verdict["steps"][step]], *data.counts(step)) for step in STEPS
    ])  # fmt: skip
    for step, error in data.ended_early:
        lines += ["", f"**{step} ended early**, and no further step started: {escaped(error)}"]
    lines += ["", *(f"- **{name}** {escaped(value)}" for name, value in data.facts), ""]
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
    shown = [f"- {escaped(show_outcome(outcome))}" for outcome in data.verdict["episodes"]]
    lines += shown or ["- none"]
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
