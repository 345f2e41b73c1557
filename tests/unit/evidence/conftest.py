"""One good bundle per session; a test works on its own copy."""

from __future__ import annotations

import shutil

import pytest
from evidence_builders import build_bundle

from pirl.evidence.raw import RawRecords


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
