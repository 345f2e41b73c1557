"""`report.html`: the report as one page that opens from a file, without server and network.

Owns the page's look. Pictures and video are data URIs; the page forbids itself any other source.
Read `pirl.evidence.report` first.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pirl.evidence.criteria import STEPS
from pirl.evidence.judge import MALFORMED
from pirl.evidence.outcomes import SUCCESS_DEFINITION, all_episodes
from pirl.evidence.pictures import CAPTIONS
from pirl.evidence.raw import RawRecords

if TYPE_CHECKING:
    from pirl.evidence.report import ReportData

MAX_VIDEO_BYTES = 8 * 2**20
"""A longer video stays a file beside the page."""

_EPISODE_FIELDS = (
    "episode_id", "task", "init_state_id", "seed", "policy_version", "env_steps", "end",
)  # fmt: skip

_CLASS = {"passed": "pass", "failed": "fail", "not run": "open"}

_STYLE = """
:root { color-scheme: light; --ink:#22262b; --soft:#5d646d; --line:#e1e4e8; --card:#fff; }
* { box-sizing: border-box; }
body { margin:0; background:#f4f5f7; color:var(--ink); font:15px/1.5 system-ui,sans-serif; }
main { max-width:1060px; margin:0 auto; padding:24px 20px 48px; }
header { border-radius:12px; padding:22px 28px; color:#fff; background:#6b7280; }
header.pass { background:#1a7f4b; } header.fallback { background:#9a6700; }
header.fail { background:#b42318; }
header h1 { margin:0; font-size:34px; letter-spacing:.5px; }
header p { margin:6px 0 0; font-size:16px; max-width:80ch; }
header small { display:block; margin-top:8px; font-size:13px; opacity:.9; max-width:100ch; }
h2 { margin:32px 0 10px; font-size:19px; }
.steps { display:grid; grid-template-columns:repeat(4,1fr); gap:12px; margin:16px 0; }
.card { background:var(--card); border:1px solid var(--line); border-radius:10px;
  padding:12px 16px; }
.steps .card { border-left:6px solid #6b7280; }
.steps .pass { border-left-color:#1a7f4b; } .steps .fail { border-left-color:#b42318; }
.steps b { display:block; margin-bottom:4px; } .steps i { color:var(--soft); font-style:normal; }
dl { display:grid; grid-template-columns:110px 1fr; gap:4px 12px; margin:0; }
dt { color:var(--soft); } dd { margin:0; overflow-wrap:anywhere; }
table { border-collapse:collapse; width:100%; background:var(--card); font-size:14px; }
th,td { text-align:left; padding:5px 10px; border-bottom:1px solid var(--line);
  vertical-align:top; }
th { color:var(--soft); font-weight:600; }
td.n { font-variant-numeric:tabular-nums; white-space:nowrap; }
td.d { color:var(--soft); overflow-wrap:anywhere; min-width:220px; }
.tag { display:inline-block; min-width:64px; text-align:center; border-radius:6px; padding:0 8px;
  font-size:12px; font-weight:700; color:#fff; background:#6b7280; }
.tag.pass { background:#1a7f4b; } .tag.fail { background:#b42318; }
figure { margin:0; } figure img, figure video { width:100%; border-radius:6px; }
figcaption { color:var(--soft); font-size:13px; }
.media { display:grid; grid-template-columns:1fr 1fr; gap:14px; }
.soft { color:var(--soft); } summary { cursor:pointer; margin:6px 0 10px; }
code { background:#e9ebee; border-radius:4px; padding:1px 5px; }
@media (max-width:800px) { .steps { grid-template-columns:1fr 1fr; }
  .media { grid-template-columns:1fr; } header h1 { font-size:24px; } }
"""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style></head><body><main>
{body}
</main></body></html>
"""


def render_page(bundle: Path, data: ReportData) -> str:
    """The whole page, a pure function of the bundle's files."""
    parts = [
        _banner(data),
        _steps(data),
        _facts(data),
        _open_items(data),
        _media(bundle),
        _episodes(bundle, data),
        *(_criteria(step, data.criteria[step]) for step in STEPS),
        _limits(data),
        _check_it(),
    ]
    title = escape(f"Phase-2 gate: {data.headline}")
    return _PAGE.format(title=title, style=_STYLE, body="\n".join(part for part in parts if part))


def _banner(data: ReportData) -> str:
    verdict, label = str(data.verdict["verdict"]), str(data.verdict["label"])
    kind = "fallback" if label.startswith("passed (") else _CLASS[verdict]
    return (
        f'<header class="{kind}"><h1>Phase-2 gate: {escape(data.headline)}</h1>'
        f"<p>{escape(str(data.verdict['claim']))}</p>"
        f"<small>{escape(str(data.verdict['non_claim']))}</small></header>"
    )


def _steps(data: ReportData) -> str:
    cards: list[str] = []
    for step in STEPS:
        verdict = str(data.verdict["steps"][step])
        passed, failed, not_run = data.counts(step)
        total = passed + failed + not_run
        rest = f", {failed} failed, {not_run} not run" if passed != total else ""
        cards.append(
            f'<div class="card {_CLASS[verdict]}"><b>{escape(step)}</b>'
            f"{_tag(verdict)} <i>{passed} of {total}{rest}</i></div>"
        )
    ended = "".join(
        f"<p><b>{escape(step)} ended early</b>, and no further step started: "
        f"<code>{escape(error)}</code></p>"
        for step, error in data.ended_early
    )
    return f'<div class="steps">{"".join(cards)}</div>{ended}'


def _tag(verdict: str) -> str:
    return f'<span class="tag {_CLASS[verdict]}">{verdict.upper()}</span>'


def _facts(data: ReportData) -> str:
    rows = "".join(f"<dt>{escape(n)}</dt><dd>{escape(v)}</dd>" for n, v in data.facts)
    return f'<div class="card"><dl>{rows}</dl></div>'


def _open_items(data: ReportData) -> str:
    if not data.open_items:
        return ""
    return "<h2>Not passed</h2>" + _rows(data.open_items, short=False)


def _criteria(step: str, criteria: list[Mapping[str, Any]]) -> str:
    return f"<h2>{escape(step)}</h2>" + _rows(criteria, short=True)


def _rows(criteria: list[Mapping[str, Any]], *, short: bool) -> str:
    from pirl.evidence.report import show_requirement, show_value

    rows: list[str] = []
    for c in criteria:
        name = str(c["name"]).split("/")[1] if short else str(c["name"])
        rows.append(
            f"<tr><td>{_tag(str(c['verdict']))}</td><td>{escape(name)}</td>"
            f'<td class="n">{escape(show_value(c["measured"]))}</td>'
            f'<td class="n">{escape(show_requirement(c))}</td>'
            f"<td>{escape(str(c['description']))}</td>"
            f'<td class="d">{escape(str(c["detail"]))}</td></tr>'
        )
    head = "<tr><th></th><th>criterion</th><th>measured</th><th>required</th>"
    return f"<table>{head}<th>what</th><th>from the records</th></tr>{''.join(rows)}</table>"


def _uri(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _media(bundle: Path) -> str:
    figures: list[str] = []
    for name, caption in CAPTIONS.items():
        path = bundle / "media" / name
        if path.is_file():
            image = f'<img src="{_uri(path, "image/png")}" alt="{escape(caption)}">'
            figures.append(_figure(image, caption))
    video, poster = bundle / "media" / "rollout.mp4", bundle / "media" / "rollout.png"
    if video.is_file() and video.stat().st_size <= MAX_VIDEO_BYTES:
        first = f' poster="{_uri(poster, "image/png")}"' if poster.is_file() else ""
        player = f'<video controls muted loop{first} src="{_uri(video, "video/mp4")}"></video>'
        figures.append(_figure(player, "One rollout of the smoke run."))
    return f'<h2>What happened</h2><div class="media">{"".join(figures)}</div>' if figures else ""


def _figure(content: str, caption: str) -> str:
    return f'<figure class="card">{content}<figcaption>{escape(caption)}</figcaption></figure>'


def _episodes(bundle: Path, data: ReportData) -> str:
    """Counts per task, then every episode with the way it ended: failures are as visible as successes."""
    from pirl.evidence.report import show_outcome

    lines = [show_outcome(outcome) for outcome in data.verdict["episodes"]] or ["none"]
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    note = f'<p class="soft">{escape(SUCCESS_DEFINITION)}</p>'
    return f"<h2>Episodes</h2><ul>{items}</ul>{note}{_episode_table(bundle)}"


def _episode_table(bundle: Path) -> str:
    try:
        episodes = all_episodes(RawRecords(bundle))
    except MALFORMED:
        # The criteria that need episodes say what is wrong with them.
        return ""
    head = "".join(f"<th>{name.replace('_', ' ')}</th>" for name in _EPISODE_FIELDS)
    rows = "".join(
        "<tr>"
        + "".join(f"<td>{escape(str(episode.get(name, '-')))}</td>" for name in _EPISODE_FIELDS)
        + "</tr>"
        for episode in episodes
    )
    failed = sum(episode["end"] != "success" for episode in episodes)
    return (
        f"<details><summary>All {len(episodes)} episodes, {failed} of them failures</summary>"
        f"<table><tr>{head}</tr>{rows}</table></details>"
    )


def _limits(data: ReportData) -> str:
    items = "".join(f"<li>{escape(str(limit))}</li>" for limit in data.verdict["limits"])
    return f"<h2>Not tested</h2><ul>{items}</ul>"


def _check_it() -> str:
    return (
        "<h2>Check it</h2><p><code>pirl verify .</code> in this folder, offline, recomputes every "
        "measured value from <code>raw/</code> and exits with 0 only if nothing was altered and "
        "the gate passed. This page is compared too.</p>"
    )
