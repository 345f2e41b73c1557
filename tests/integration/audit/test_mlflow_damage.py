"""A tracker that cannot be used is one error that says what to do, and never the end of a verdict's records."""

from __future__ import annotations

import pytest

from pirl.errors import EvidenceError
from pirl.tracking.sink import MlflowSink

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("kind", ["garbage", "a folder"])
def test_a_database_that_is_none_is_refused_with_what_to_do(kind, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if kind == "garbage":
        (tmp_path / "mlflow.db").write_bytes(bytes(range(256)) * 40)
    else:
        (tmp_path / "mlflow.db").mkdir()
    with pytest.raises(EvidenceError, match="--no-mlflow"):
        MlflowSink.open(tmp_path)
