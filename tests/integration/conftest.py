"""Where the processes of these tests run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def in_repository() -> Iterator[None]:
    """Configs are named relative to the repository, and processes start there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPO)
        yield
