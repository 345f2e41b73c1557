"""`report.html`: the report as one page that opens from a file, without server and network.

Owns what goes into the page; its look is `page.html.j2`, which escapes everything. Pictures and video are data
URIs; the page forbids itself any other source. Read `pirl.audit.report` first.
"""

from __future__ import annotations

import base64
from pathlib import Path

import jinja2

from pirl.audit.judge import MALFORMED
from pirl.audit.outcomes import SUCCESS_DEFINITION, played
from pirl.audit.pictures import CAPTIONS
from pirl.audit.raw import RawRecords
from pirl.audit.records.files import STEPS
from pirl.audit.records.smoke import Episode
from pirl.audit.report import read_report_data, show_outcome, show_requirement, show_value
from pirl.errors import EvidenceError

MAX_VIDEO_BYTES = 8 * 2**20
"""A longer video stays a file beside the page."""

_CLASS = {"passed": "pass", "failed": "fail", "not run": "open"}

_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render_html(bundle: Path) -> str:
    """The whole page, a pure function of the bundle's files.

    Raises:
        EvidenceError: one of them lacks what the page shows.
    """
    try:
        return _rendered(bundle)
    except jinja2.UndefinedError as error:
        raise EvidenceError(f"report.html: {error}") from error


def _rendered(bundle: Path) -> str:
    data = read_report_data(bundle)
    label, verdict = str(data.verdict["label"]), str(data.verdict["verdict"])
    return _TEMPLATES.get_template("page.html.j2").render(
        data=data,
        kind=next(
            (k for k in ("fallback", "own") if label.startswith(f"passed ({k}")), _CLASS[verdict]
        ),
        steps=STEPS,
        classes=_CLASS,
        value=show_value,
        requirement=show_requirement,
        outcomes=[show_outcome(outcome) for outcome in data.verdict["episodes"]],
        success_definition=SUCCESS_DEFINITION,
        episodes=_episodes(bundle),
        pictures=[
            (_uri(path, "image/png"), caption)
            for name, caption in CAPTIONS.items()
            if (path := bundle / "media" / name).is_file()
        ],
        video=_video(bundle),
    )


def _uri(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _video(bundle: Path) -> tuple[str, str] | None:
    """Video and its first frame, where both are there and small enough."""
    video, poster = bundle / "media" / "rollout.mp4", bundle / "media" / "rollout.png"
    if not (video.is_file() and poster.is_file()) or video.stat().st_size > MAX_VIDEO_BYTES:
        return None
    return _uri(video, "video/mp4"), _uri(poster, "image/png")


def _episodes(bundle: Path) -> list[Episode]:
    try:
        return played(RawRecords(bundle))
    except MALFORMED:
        # The criteria that need episodes say what is wrong with them.
        return []
