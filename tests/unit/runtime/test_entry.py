"""What a process of pirl writes to its log."""

from __future__ import annotations

import logging

import pytest

from pirl.runtime.entry import configure_logging


def test_a_status_text_that_was_damaged_on_the_way_is_one_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    configure_logging("actor-0")
    found = logging.getLogger("grpc._cython.cygrpc")
    try:
        b"mess\xe1ge".decode()
    except UnicodeDecodeError:
        found.exception("Invalid encoding on %s", b"mess\xe1ge")
    (record,) = caplog.records
    assert record.exc_info is None
    assert "Invalid encoding" in record.getMessage()
