"""What a process of pirl writes to its log."""

from __future__ import annotations

import logging

import pytest

from pirl.runtime.entry import configure_logging


@pytest.mark.parametrize("name", ["grpc._common", "grpc._cython.cygrpc"])
def test_bytes_that_grpc_cannot_read_are_one_line_however_many_come(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    configure_logging("actor-0")
    for _ in range(3):
        try:
            b"mess\xe1ge".decode()
        except UnicodeDecodeError:
            logging.getLogger(name).exception("Invalid encoding on %s", b"mess\xe1ge")
    (record,) = caplog.records
    assert record.exc_info is None
    assert "Invalid encoding" in record.getMessage()
