"""A folder is intact, or every part that is not is named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pirl.checkpoint.manifest import MANIFEST_NAME, verify_manifest, write_manifest


def a_folder(root: Path) -> Path:
    folder = root / "000004"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.bin").write_bytes(bytes(range(256)) * 8)
    (folder / "sub" / "b.json").write_text('{"x": 1}')
    write_manifest(folder)
    return folder


def found(folder: Path) -> list[tuple[str, str]]:
    return [(problem.part, problem.kind) for problem in verify_manifest(folder)]


def edit_manifest(folder: Path, **changes: object) -> None:
    path = folder / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_an_untouched_folder_has_no_problems_wherever_it_lies(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    assert found(folder) == []
    moved = folder.rename(tmp_path / "elsewhere")
    assert found(moved) == []
    assert str(tmp_path) not in (moved / MANIFEST_NAME).read_text()


@pytest.mark.parametrize("position", [0, 1000, 2047])
def test_one_altered_byte_is_found(tmp_path: Path, position: int) -> None:
    folder = a_folder(tmp_path)
    content = bytearray((folder / "a.bin").read_bytes())
    content[position] ^= 1
    (folder / "a.bin").write_bytes(content)
    assert found(folder) == [("a.bin", "altered")]
    problem = verify_manifest(folder)[0]
    assert problem.recorded != problem.found
    assert len(problem.recorded or "") == len(problem.found or "") == 64


def test_every_kind_of_damage_is_named_at_once(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    (folder / "a.bin").write_bytes((folder / "a.bin").read_bytes()[:-1])
    (folder / "sub" / "b.json").unlink()
    (folder / "sub" / "c.json").write_text("{}")
    assert found(folder) == [
        ("a.bin", "truncated"),
        ("sub/b.json", "missing"),
        ("sub/c.json", "extra"),
    ]


def test_a_longer_file_is_altered_and_an_emptied_one_truncated(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    (folder / "a.bin").write_bytes(b"")
    (folder / "sub" / "b.json").write_text('{"x": 1} ')
    assert found(folder) == [("a.bin", "truncated"), ("sub/b.json", "altered")]


def test_a_link_in_place_of_a_file_is_refused_even_to_the_same_bytes(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    (folder / "a.bin").rename(tmp_path / "a.bin")
    (folder / "a.bin").symlink_to(tmp_path / "a.bin")
    assert found(folder) == [("a.bin", "not a regular file")]


def test_a_folder_without_a_manifest_is_not_complete(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    (folder / MANIFEST_NAME).unlink()
    assert found(folder) == [(MANIFEST_NAME, "missing")]


DAMAGED = [
    "",
    '{"format"',
    "[]",
    '"x"',
    "\xff",
    "[" * 100_000,
    '{"files": ' * 100 + "1" + "}" * 100,
    '{"files": {}, "files": {}}',
    '{"files": NaN}',
    '{"files": 1e999}',
    '{"files": ' + "1" * 10_000 + "}",
    " " * (5 * 2**20),
]


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_a_manifest_that_is_not_one_is_unreadable(tmp_path: Path, text: str) -> None:
    folder = a_folder(tmp_path)
    (folder / MANIFEST_NAME).write_text(text, encoding="latin-1")
    assert found(folder) == [(MANIFEST_NAME, "unreadable")]


def test_an_edited_manifest_is_told_apart_from_damaged_files(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    files = json.loads((folder / MANIFEST_NAME).read_text())["files"]
    files["a.bin"]["sha256"] = "0" * 64
    edit_manifest(folder, files=files)
    assert found(folder) == [(MANIFEST_NAME, "manifest altered")]


def test_a_manifest_of_another_format_is_refused(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    edit_manifest(folder, format_version=2)
    assert found(folder) == [(MANIFEST_NAME, "manifest format")]


def test_a_manifest_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    (folder / MANIFEST_NAME).unlink()
    os.mkfifo(folder / MANIFEST_NAME)
    assert found(folder) == [(MANIFEST_NAME, "missing")]


ILLEGAL = [
    "../outside.bin",
    "/etc/hostname",
    "sub/../../outside.bin",
    "",
    ".",
    "a\0b",
    "n" * 300,
    "\ud800",
]


@pytest.mark.parametrize("name", ILLEGAL, ids=range(len(ILLEGAL)))
def test_no_path_outside_the_folder_is_opened(tmp_path: Path, name: str) -> None:
    folder = a_folder(tmp_path)
    (tmp_path / "outside.bin").write_bytes(b"secret")
    (folder / MANIFEST_NAME).unlink()
    write_manifest(folder)
    body = json.loads((folder / MANIFEST_NAME).read_text())
    body["files"][name] = {"size": 6, "sha256": "0" * 64}
    resign(folder, body)
    # A name that no file can have is missing to some of Python's questions about it.
    kinds = ("illegal path", "missing") if "\0" in name or "\ud800" in name else ("illegal path",)
    assert next(kind for part, kind in found(folder) if part == name) in kinds


@pytest.mark.parametrize(
    "files",
    [
        None,
        [],
        {"a.bin": 3},
        {"a.bin": {"size": 1}},
        {"a.bin": {"size": "1", "sha256": "0"}},
        {"a.bin": {"size": None, "sha256": "0"}},
        {"a.bin": {"size": 1, "sha256": 0}},
    ],
)
def test_a_malformed_table_of_files_is_refused(tmp_path: Path, files: object) -> None:
    folder = a_folder(tmp_path)
    body = json.loads((folder / MANIFEST_NAME).read_text())
    body["files"] = files
    resign(folder, body)
    assert found(folder) == [(MANIFEST_NAME, "manifest altered")]


def resign(folder: Path, body: dict[str, object]) -> None:
    """Write a manifest whose own digest fits, as a careful forger would."""
    import hashlib

    body.pop("digest")
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()
    (folder / MANIFEST_NAME).write_text(json.dumps(body | {"digest": digest}))
