"""A manifest, statement or record that is damaged in any form is a problem with a name, never a traceback."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from pirl.audit import raw
from pirl.audit.verify import main
from pirl.journal import fields

LIMIT = 2**20
"""Bytes of a record file here; the real limit takes seconds to read."""

FORMS = {
    "not json": b'{"format"',
    "a list": b"[]",
    "missing keys": b"{}",
    "wrong types": b'{"format": 1, "format_version": "x", "files": [1]}',
    "wrong entries": json.dumps(
        {"format": "pirl-evidence", "format_version": 2, "files": {"verdict.json": 3, "": None}}
    ).encode(),
    "deep nesting": b'{"files": ' + b"[" * 100_000,
    "moderately deep": b'{"files": ' * 500 + b"1" + b"}" * 500,
    "not utf-8": b'{"format": "\xff"}',
    "path traversal": b'{"format": "pirl-evidence", "format_version": 2, "files": {"../x": {}, "/y": {}}}',
    "a key twice": b'{"files": {}, "files": {}}',
    "not finite": b'{"files": 1e999}',
    "huge": b" " * (LIMIT + 1),
}


@pytest.mark.parametrize(
    "name", ["manifest.json", "statement.json", "metadata/run.json", "verdict.json"]
)
@pytest.mark.parametrize("form", FORMS)
def test_a_damaged_file_of_a_bundle_is_a_problem(form, name, bundle, capsys, monkeypatch):
    for module in (fields, raw):
        monkeypatch.setattr(module, "MAX_RECORD_BYTES", LIMIT)
    (bundle / name).write_bytes(FORMS[form])
    assert main([str(bundle)]) == 1
    assert capsys.readouterr().out.startswith(("NOT ACCEPTED", "NOT A BUNDLE"))


@pytest.mark.parametrize("name", ["manifest.json", "raw/smoke-run/processes.jsonl"])
def test_a_pipe_in_a_bundle_is_not_waited_for(name, bundle):
    (bundle / name).unlink()
    os.mkfifo(bundle / name)
    assert main([str(bundle)]) == 1


def test_folders_too_deep_to_be_listed_are_a_problem(bundle, capsys, monkeypatch):
    monkeypatch.chdir(bundle)
    for _ in range(2500):
        os.mkdir("d")  # noqa: PTH102 - a path of the whole would be too long
        os.chdir("d")
    os.chdir(bundle)
    assert main([str(bundle)]) == 1
    assert "cannot be listed: File name too long" in capsys.readouterr().out
    # pytest removes what is left of a test by its path.
    subprocess.run(["rm", "-rf", str(bundle / "d")], check=True)
