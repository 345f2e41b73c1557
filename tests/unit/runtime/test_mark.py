"""Who a process is, by its own word."""

from __future__ import annotations

import logging
import os

import psutil
import pytest

from pirl.errors import EvidenceError
from pirl.hooks import VARIABLE
from pirl.runtime import mark
from pirl.runtime.mark import leave_mark, own_mark, read_marks


def test_two_roles_of_one_process_are_one_process():
    learner, actor = own_mark("learner"), own_mark("actor-0")
    assert learner.nonce == actor.nonce
    assert (learner.pid, learner.started_unix) == (os.getpid(), psutil.Process().create_time())


def test_a_process_with_the_memory_of_another_has_a_nonce_of_its_own():
    of = mark._of_process
    assert of(7, 1.0) == of(7, 1.0)
    assert len({of(7, 1.0), of(8, 1.0), of(7, 2.0)}) == 3


def test_marks_stay_in_order_and_are_in_the_log(tmp_path, caplog, monkeypatch):
    monkeypatch.setenv(VARIABLE, "parity")
    path = tmp_path / "learner" / "processes.jsonl"
    with caplog.at_level(logging.INFO):
        leave_mark(path, "learner")
    monkeypatch.delenv(VARIABLE)
    leave_mark(path, "learner")
    first, second = read_marks(path)
    assert (first.hooks, second.hooks) == (("parity",), ())
    assert first.nonce in caplog.text


def test_no_file_holds_no_marks_and_another_file_is_refused(tmp_path):
    assert read_marks(tmp_path / "none.jsonl") == []
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(EvidenceError, match="unknown field 'a'"):
        read_marks(tmp_path / "x.jsonl")
