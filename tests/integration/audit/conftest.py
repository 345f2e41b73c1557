"""The synthetic bundle of the unit tests, for tests of what is drawn from it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from pirl.audit.raw import RawRecords

sys.path.insert(0, str(Path(__file__).parents[2] / "audit"))

from bundle_builder import build_bundle


@pytest.fixture(scope="session")
def good_bundle(tmp_path_factory):
    return build_bundle(tmp_path_factory.mktemp("good"))


@pytest.fixture
def raw(good_bundle, tmp_path):
    """The raw records of a copy of the good bundle."""
    return RawRecords(shutil.copytree(good_bundle.folder, tmp_path / "bundle"))
