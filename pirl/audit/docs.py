"""The generated parts of `docs/evidence.md`: `python -m pirl.audit.docs` writes them, a test compares them.

Owns how records and criteria are shown. Everything that is said comes from the record classes and the criteria.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

from pirl.audit.criterion import IS_TRUE
from pirl.audit.policy import criteria_of
from pirl.audit.records.files import FILES, METRIC_FILES, STEPS
from pirl.audit.records.metadata import Environment, Run, Source
from pirl.files import write_text
from pirl.guard import run_guarded
from pirl.journal.codec import hints

PAGE = Path("docs/evidence.md")


def with_generated(page: str) -> str:
    """`page` with the text between its marks `<!-- NAME -->` written again."""
    for name, text in (("records", _records()), ("criteria", _criteria())):
        before, rest = page.split(f"<!-- {name} -->\n")
        page = (
            f"{before}<!-- {name} -->\n{text}<!-- /{name} -->{rest.split(f'<!-- /{name} -->')[1]}"
        )
    return page


def _criteria() -> str:
    lines: list[str] = []
    for step in STEPS:
        lines += [
            "",
            f"### {step}",
            "",
            "| criterion | required | row | what |",
            "|---|---|---|---|",
        ]
        for c in criteria_of(step):
            required = (
                "yes" if c.comparator == IS_TRUE else f"{c.comparator} {c.threshold:g} {c.unit}"
            )
            on_cuda = "" if c.cuda is None else f" ({c.cuda:g} on `cuda/float32`)"
            what = c.description.replace("|", r"\|")
            only = "" if c.profile is None else f" ({c.profile} only)"
            lines.append(f"| `{c.name}`{only} | {required.strip()}{on_cuda} | {c.row} | {what} |")
    return "\n".join(lines) + "\n"


def _records() -> str:
    lines: list[str] = []
    for step in STEPS:
        lines += ["", f"### raw/{step}"]
        for file in FILES:
            if file.step == step and file.kind is not str:
                how = "one object per line" if file.is_lines else "one object"
                lines += [
                    "",
                    f"**`{file.name}`**, {how}. {_summary(file.kind)}",
                    "",
                    *_table(file.kind),
                ]
        plain = [f"`{f.name}`" for f in FILES if f.step == step and f in METRIC_FILES]
        if plain:
            lines += ["", f"{', '.join(plain)}: rows of `pirl.journal.metric_log`, below."]
        exact = [
            f"`{f.name}`"
            for f in FILES
            if f.step == step and f.kind is str and f not in METRIC_FILES
        ]
        if exact:
            lines += ["", f"{', '.join(exact)}: the canonical config of that process, exact bytes."]
    lines += ["", "### metadata"]
    for name, kind in (("run", Run), ("source", Source), ("environment", Environment)):
        lines += ["", f"**`{name}.json`**, one object. {_summary(kind)}", "", *_table(kind)]
    return "\n".join(lines) + "\n"


def _summary(kind: type) -> str:
    return str(inspect.getdoc(kind)).split("\n\n")[0].replace("\n", " ")


def _table(kind: type) -> Iterator[str]:
    yield "| field | type | unit | meaning |"
    yield "|---|---|---|---|"
    yield from _rows(kind, "")


def _rows(kind: type, prefix: str) -> Iterator[str]:
    entries: dict[str, Field[Any]] = kind.__dataclass_fields__  # type: ignore[attr-defined]
    for name, hint in hints(kind).items():
        about = entries[name].metadata
        yield f"| `{prefix}{name}` | {_type(hint)} | {about['unit']} | {about['meaning']} |"
        if (inner := _inner(hint)) is not None:
            yield from _rows(inner, f"{prefix}{name}.")


def _inner(hint: Any) -> type | None:
    """The record class in a type, as it is, in a list or as the values of an object."""
    if is_dataclass(hint):
        return hint  # type: ignore[return-value]
    return next((found for part in get_args(hint) if (found := _inner(part))), None)


def _type(hint: Any) -> str:
    names = {
        str: "text",
        int: "integer",
        float: "number",
        bool: "true or false",
        type(None): "null",
    }
    if hint in names:
        return names[hint]
    if is_dataclass(hint):
        return "object"
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if origin is Mapping:
        return f"text to {_type(arguments[1])}"
    return " or ".join(_type(part) for part in arguments)


def main(argv: Sequence[str]) -> int:
    """Write the generated parts of the page in the working directory."""
    write_text(PAGE, with_generated(PAGE.read_text(encoding="utf-8")))
    return 0


if __name__ == "__main__":
    sys.exit(run_guarded(main, sys.argv[1:]))
