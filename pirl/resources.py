"""Files that pirl brings along: default configs, parameters, pins, and what it knows of its own origin.

A checkout has them in its root; a wheel carries them in `pirl/shipped` (`hatch_build.py`). Owns where they
are. Refuses to know what is in them.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
SHIPPED = _PACKAGE / "shipped"


def checkout() -> Path | None:
    """Root of the checkout that this code runs from; None for an installed wheel."""
    root = _PACKAGE.parent
    return None if SHIPPED.is_dir() or not (root / "pyproject.toml").is_file() else root


def locate(path: str | Path) -> Path:
    """`path` as it is given where that exists from here; else pirl's own file of that name, else `path`.

    So a user's `configs/` and `params.yaml` win, and the shipped ones serve in an empty folder.
    """
    given = Path(path)
    if given.is_absolute() or given.exists():
        return given
    own = (checkout() or SHIPPED) / given
    return own if own.exists() else given


def folder_or_id(named: str | Path) -> str:
    """What a checkpoint or tokenizer is loaded from: a folder, also one of pirl's own, or else the name given."""
    folder = locate(named)
    return str(folder) if folder.is_dir() else str(named)
