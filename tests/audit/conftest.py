"""One good bundle per session; a test works on its own copy."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import pytest
from bundle_builder import Story, build_bundle, step_writer

from pirl.audit.bundle import FinishedBundle
from pirl.audit.raw import RawRecords
from pirl.audit.redact import find_leaks
from pirl.journal import media

MEMORY = Path("/dev/shm")


@pytest.fixture(scope="session", autouse=True)
def do_slow_work_once():
    """Equal bytes show the same clip and leak the same; a test's bundle need not survive a power cut."""
    inspect_video, seen = media.inspect_video, {}

    def inspect_once(path):
        key = path.read_bytes()
        if key not in seen:
            seen[key] = inspect_video(path)
        return seen[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(media, "inspect_video", inspect_once)
        patch.setattr("pirl.audit.bundle.find_leaks", cache(find_leaks))
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session")
def good_bundle(tmp_path_factory):
    return build_bundle(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="session")
def good_libero_bundle(tmp_path_factory):
    return build_bundle(tmp_path_factory.mktemp("libero"), Story(profile="libero"))


@pytest.fixture
def bundle(good_bundle):
    """A copy of the good bundle that the test may spoil."""
    with _copy(good_bundle) as copy:
        yield copy


@pytest.fixture
def libero_bundle(good_libero_bundle):
    """The same on the other profile."""
    with _copy(good_libero_bundle) as copy:
        yield copy


@contextmanager
def _copy(good: FinishedBundle):
    """In memory where that is possible: 90 files per test."""
    with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as folder:
        copy = Path(folder) / "bundle"
        yield shutil.copytree(good.folder, copy, copy_function=shutil.copyfile)


@pytest.fixture
def raw(bundle):
    """The raw records of a copy of the good bundle."""
    return RawRecords(bundle)


@pytest.fixture
def writer_of(bundle):
    """Writes records of a step into the copy, over the good ones."""

    return partial(step_writer, bundle)
