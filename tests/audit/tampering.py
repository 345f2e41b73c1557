"""What an auditor does to a bundle, and how far an attacker who knows the format goes to hide it."""

from __future__ import annotations

import json
from pathlib import Path

from pirl.audit.bundle import seal
from pirl.audit.derive import derived_texts, opening_digest, read_metadata
from pirl.audit.judge import judge_gate
from pirl.audit.page import render_html
from pirl.audit.raw import RawRecords
from pirl.audit.records.files import SEAL_NAME, STEPS
from pirl.audit.records.metadata import Run
from pirl.audit.report import render_markdown
from pirl.audit.statement import MANIFEST, STATEMENT, build_manifest
from pirl.journal.codec import dump_json
from pirl.journal.fields import file_sha256


def load(bundle: Path, name: str):
    return json.loads((bundle / name).read_text())


def store(bundle: Path, name: str, value) -> None:
    (bundle / name).write_text(dump_json(value))


def edit(name: str, change):
    """Apply `change` to the object in a file, in the layout of a gate."""

    def tamper(bundle: Path) -> None:
        value = load(bundle, name)
        change(value)
        store(bundle, name, value)

    return tamper


def edit_line(name: str, change, index: int = 0):
    """Apply `change` to one line of a file, in the layout of a gate."""

    def tamper(bundle: Path) -> None:
        lines = (bundle / name).read_text().splitlines()
        value = json.loads(lines[index])
        change(value)
        lines[index] = json.dumps(value, sort_keys=True)
        (bundle / name).write_text("".join(line + "\n" for line in lines))

    return tamper


def replace(name: str, old: str, new: str):
    def tamper(bundle: Path) -> None:
        text = (bundle / name).read_text()
        assert old in text
        (bundle / name).write_text(text.replace(old, new, 1))

    return tamper


def add(name: str, content: str = "{}\n"):
    def tamper(bundle: Path) -> None:
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_text(content)

    return tamper


def remove(name: str):
    return lambda bundle: (bundle / name).unlink()


def as_it_is(_: Path) -> None:
    """Hide nothing."""


def reseal(bundle: Path) -> None:
    """New digests for everything: manifest and statement fit again."""
    store(bundle, MANIFEST, build_manifest(bundle))
    statement = load(bundle, STATEMENT)
    statement["subject"][0]["digest"]["sha256"] = file_sha256(bundle / MANIFEST)
    store(bundle, STATEMENT, statement)


def reseal_steps(bundle: Path) -> None:
    """And every step's seal lists what lies there now and follows the one before."""
    before = opening_digest(bundle, read_metadata(bundle, "run", Run))
    for step in STEPS:
        path = bundle / "raw" / step / SEAL_NAME
        record = load(bundle, f"raw/{step}/{SEAL_NAME}")
        found = [p for folder in ("raw", "logs") for p in (bundle / folder / step).rglob("*")]
        names = {p.relative_to(bundle).as_posix() for p in found if p.is_file() and p != path}
        names |= {name for name in record["files"] if name.startswith("media/")}
        record |= {
            "before": before,
            "files": {n: file_sha256(bundle / n) for n in sorted(names) if (bundle / n).is_file()},
        }
        path.write_text(dump_json(record))
        before = file_sha256(path)
    reseal(bundle)


def rewrite(bundle: Path) -> None:
    """And everything that follows from raw records is written again: the limit of an unsigned bundle."""
    raw = RawRecords(bundle)
    verdict = judge_gate(raw)
    for name, text in derived_texts(raw, verdict, read_metadata(bundle, "run", Run)).items():
        (bundle / name).write_text(text)
    (bundle / "report.md").write_text(render_markdown(bundle))
    (bundle / "report.html").write_text(render_html(bundle))
    reseal_steps(bundle)
    seal(bundle, verdict)


def leaves(value, path=()):
    """Every place in a JSON value that holds no object and no list, and every empty one."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    places = [place for key, child in items for place in leaves(child, (*path, key))]
    return places or [path]
