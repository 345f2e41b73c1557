"""One good bundle per session; a test works on its own copy."""

from __future__ import annotations

import shutil

import pytest
from evidence_builders import build_bundle

from pirl.evidence import media
from pirl.evidence.raw import RawRecords


@pytest.fixture(scope="session", autouse=True)
def decode_each_video_once():
    """Decoding starts a process; the same bytes always show the same clip."""
    decode, seen = media.inspect_video, {}

    def cached(path):
        key = path.read_bytes()
        if key not in seen:
            seen[key] = decode(path)
        return seen[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(media, "inspect_video", cached)
        yield


@pytest.fixture(scope="session")
def good_bundle(tmp_path_factory):
    return build_bundle(tmp_path_factory.mktemp("good"))


@pytest.fixture
def bundle(good_bundle, tmp_path):
    """A copy of the good bundle that the test may spoil."""
    return shutil.copytree(good_bundle.folder, tmp_path / "bundle")


@pytest.fixture
def raw(bundle):
    """The raw records of a copy of the good bundle."""
    return RawRecords(bundle)
