"""A file of a checkpoint or tokenizer as it lies on this machine: in a folder, or in the hub's cache.

Owns the look-up. Refuses to download: whoever needs the file and not only a fact of it does that.
"""

from __future__ import annotations

import re
from pathlib import Path

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def stored(source: str, name: str, *, revision: str | None = None) -> Path | None:
    """The file `name` of a folder or a hub repository; None when it is not on this machine."""
    if Path(source).is_dir():
        file = Path(source) / name
        return file if file.is_file() else None
    if not _HUB_ID.fullmatch(source):
        return None
    # Only now: a folder needs no network stack.
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(source, name, revision=revision)
    except ValueError:
        return None
    return Path(found) if isinstance(found, str) else None
