"""Pictures are drawn from raw records, or not at all."""

from __future__ import annotations

import pytest

from pirl.audit.page import render_html
from pirl.audit.pictures import CAPTIONS, draw_all

pytestmark = pytest.mark.integration


def test_every_picture_is_drawn_from_raw_records_and_shown_in_the_page(raw):
    drawn = draw_all(raw, raw.root / "media")
    assert [path.name for path in drawn] == list(CAPTIONS)
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in drawn)
    page = render_html(raw.root)
    assert page.count("data:image/png") == len(CAPTIONS) + 1


def test_picture_without_records_is_not_drawn(raw):
    (raw.root / "raw/resume-roundtrip/kill.json").unlink()
    (raw.root / "raw/smoke-run/metrics-actor-0.jsonl").unlink()
    drawn = {path.name for path in draw_all(raw, raw.root / "media")}
    assert drawn == set(CAPTIONS) - {"resume.png", "stage_times.png"}
