"""Videos that play, and pictures that do not lie."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest
from bundle_builder import draw_frames

from pirl.audit.page import render_html
from pirl.audit.pictures import CAPTIONS, DISCLAIMER
from pirl.audit.report import render_markdown
from pirl.errors import EvidenceError
from pirl.journal import media


def test_video_is_h264_wide_enough_and_not_blank(tmp_path):
    clip = media.write_video(tmp_path / "a.mp4", draw_frames(3), fps=8)
    assert (clip.width, clip.height, clip.frames) == (480, 480, 3)
    assert clip.spread > 10
    content = (tmp_path / "a.mp4").read_bytes()
    assert b"avc1" in content
    assert b"Lavf" not in content


def test_nothing_of_ours_runs_between_fork_and_ffmpeg(tmp_path, monkeypatch):
    # In a process with a gRPC server its fork handlers would write to the pipes of ffmpeg.
    started, popen = [], subprocess.Popen

    def start(*args, **kwargs):
        started.append(kwargs.get("preexec_fn"))
        return popen(*args, **kwargs)

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.delenv("IMAGEIO_FFMPEG_NO_PREVENT_SIGINT", raising=False)
    media.write_video(tmp_path / "a.mp4", draw_frames(2), fps=8)
    assert len(started) >= 2
    assert set(started) == {None}


def test_odd_frames_get_even_sides(tmp_path):
    frames = [np.random.default_rng(0).integers(0, 255, (81, 499, 3), dtype=np.uint8)] * 2
    clip = media.write_video(tmp_path / "a.mp4", frames, fps=8)
    assert (clip.width % 2, clip.height % 2) == (0, 0)


def test_first_frame_picture_shows_the_first_frame(tmp_path):
    from PIL import Image

    frames = draw_frames(2)
    media.write_video(tmp_path / "a.mp4", frames, fps=8)
    picture = np.asarray(Image.open(tmp_path / "a.png"))
    assert np.array_equal(picture[::5, ::5], frames[0])


@pytest.mark.parametrize(
    ("frames", "why"),
    [
        ([], "0 frames"),
        ([np.zeros((8, 8, 3), np.uint8)], "1 frames"),
        ([np.zeros((8, 8, 3), np.uint8)] * 2, "blank"),
        ([np.ones((8, 8, 3), np.float32)] * 2, "uint8"),
        ([np.ones((8, 8, 3), np.uint8), np.ones((9, 8, 3), np.uint8)], "one size"),
    ],
)
def test_what_is_no_video_is_refused(tmp_path, frames, why):
    with pytest.raises(EvidenceError, match=why):
        media.write_video(tmp_path / "a.mp4", frames, fps=8)


def test_file_that_does_not_decode_is_refused(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(EvidenceError, match="decoded"):
        media.inspect_video(tmp_path / "a.mp4")


@pytest.mark.parametrize("name", ["/a/b.mp4", "../b.mp4", "a/../../b.mp4", ""])
def test_path_out_of_the_bundle_is_refused(name):
    with pytest.raises(EvidenceError, match="inside"):
        media.inside(name)


def test_learning_curve_says_that_it_is_no_claim():
    assert DISCLAIMER == "smoke run, not a performance claim"
    assert DISCLAIMER in CAPTIONS["learning_curve.png"]


def test_report_begins_with_the_verdict_and_stays_short(good_bundle):
    lines = (good_bundle.folder / "report.md").read_text().splitlines()
    assert lines[0] == "# Phase-2 gate: PASSED (fallback: embedded)"
    # Two printed pages.
    assert len(lines) < 115


def test_report_shows_every_criterion(good_bundle):
    text = (good_bundle.folder / "report.md").read_text()
    for results in good_bundle.verdict.results.values():
        for result in results:
            assert f"| {result.name.split('/')[1]} |" in text


def test_page_lists_every_episode_with_the_way_it_ended(good_bundle):
    page = (good_bundle.folder / "report.html").read_text()
    records = (good_bundle.folder / "raw/smoke-run/episodes.jsonl").read_text().splitlines()
    ends = [json.loads(record)["end"] for record in records]
    for end in set(ends):
        assert page.count(f"<td>{end}</td>") == ends.count(end)


def test_report_shows_rates_with_counts_and_intervals_only(good_bundle):
    text = (good_bundle.folder / "report.md").read_text()
    assert "25/40 (0.47 to 0.76, 95 % Wilson)" in text
    assert "%" not in text.replace("95 %", "")


def test_report_lists_what_was_not_tested(good_bundle):
    text = (good_bundle.folder / "report.md").read_text()
    for limit in good_bundle.verdict.limits:
        assert limit in text


def test_report_puts_what_did_not_pass_before_everything_else(bundle):
    path = bundle / "criteria" / "smoke-run.json"
    path.write_text(path.read_text().replace('"passed"', '"failed"', 1))
    lines = render_markdown(bundle).splitlines()
    assert lines.index("## Not passed") < lines.index("## validate-config")


def test_page_needs_no_network_and_escapes_what_it_shows(bundle):
    path = bundle / "criteria" / "smoke-run.json"
    path.write_text(path.read_text().replace("Learner and actors", "<script>alert(1)</script>", 1))
    page = render_html(bundle)
    assert "<script" not in page
    assert "default-src 'none'" in page
    sources = page.replace("data:image/png;base64,", "").replace("data:video/mp4;base64,", "")
    assert "http" not in sources.replace('http-equiv="Content', "")
