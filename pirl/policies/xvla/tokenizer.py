"""Where the words of a policy come from and how many there are, read without transformers.

Owns the place of a tokenizer and its size. Refuses to tokenise: that is `pirl.policies.xvla.processors`.

Limit: LeRobot resolves `tokenizer_name` against the working directory, then against the hub, and never
against the checkpoint folder. A saved checkpoint therefore carries its tokenizer at the very relative path
that `tokenizer_name` names: stock LeRobot finds it with the checkpoint folder as working directory, pirl
finds it from anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from pirl.config.hub_cache import stored
from pirl.config.strictjson import read_json_object
from pirl.errors import ConfigError, FieldError
from pirl.resources import folder_or_id

OUTSIDE_TOKENIZER_FOLDER = "tokenizer"
"""Where a checkpoint keeps a tokenizer whose name leads out of the working directory."""

TOKENIZER_ENDINGS = (".json", ".txt", ".model")
"""Of the files that tokenizers are read from."""

TOKENIZER_MAX_BYTES = 64 * 2**20
"""BART's file has 1.4 MB; the largest vocabularies in use have 35 MB."""


def tokenizer_folder(policy_config: Any, checkpoint: str | Path) -> Path:
    """Where `checkpoint` keeps the tokenizer files of this config."""
    name = Path(policy_config.tokenizer_name)
    outside = name.is_absolute() or ".." in name.parts
    return Path(checkpoint) / (OUTSIDE_TOKENIZER_FOLDER if outside else name)


def tokenizer_source(policy_config: Any) -> str:
    """Folder or hub id of the tokenizer; the copy inside the starting checkpoint comes first."""
    if policy_config.pretrained_path is not None:
        inside = tokenizer_folder(policy_config, folder_or_id(policy_config.pretrained_path))
        if inside.is_dir():
            return str(inside)
    return folder_or_id(policy_config.tokenizer_name)


def tokenizer_size(policy_config: Any) -> int | None:
    """Largest token id plus one; None where the files are not here or cannot be read without transformers."""
    source = tokenizer_source(policy_config)
    try:
        words = _ids(source, "tokenizer.json") or _ids(source, "vocab.json")
        added = _ids(source, "added_tokens.json") + _ids(source, "tokenizer_config.json")
    except (OSError, ValueError):
        # Loading says what is wrong with it.
        return None
    return 1 + max([*words, *added]) if words else None


def vocabulary_size(policy_config: Any) -> int | None:
    """Rows of the text encoder's word embeddings; None where the config leaves it to transformers."""
    text: Any = (policy_config.florence_config or {}).get("text_config")
    size = text.get("vocab_size") if isinstance(text, dict) else None
    return size if isinstance(size, int) else None


def vocabulary_errors(policy_config: Any, size: int | None) -> Iterator[FieldError]:
    """The error of a tokenizer with more words than the text encoder has embeddings.

    Args:
        size: largest token id plus one; None passes.
    """
    rows = vocabulary_size(policy_config)
    if rows is None or size is None or size <= rows:
        return
    yield FieldError(
        field="policy.tokenizer_name",
        value=policy_config.tokenizer_name,
        expected=f"at most {rows} words, policy.florence_config.text_config.vocab_size; this tokenizer"
        f" has {size}, and the text encoder has no embedding for the rest",
        fix="set policy.tokenizer_name to the tokenizer that the policy was trained with; inside the"
        " starting checkpoint its files take precedence",
    )


def require_vocabulary(policy_config: Any, size: int) -> None:
    """Refuse token ids beyond the text encoder's embeddings.

    Raises:
        ConfigError: `size`, the largest id plus one, is beyond them.
    """
    errors = list(vocabulary_errors(policy_config, size))
    if errors:
        raise ConfigError(errors, source="policy")


def _ids(source: str, name: str) -> list[int]:
    """Every token id that a file of a tokenizer names; none where the file is not here.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    file = stored(source, name)
    if file is None:
        return []
    content = read_json_object(file, max_bytes=TOKENIZER_MAX_BYTES)
    if name == "tokenizer_config.json":
        return [int(key) for key in _object(content, "added_tokens_decoder") if key.isdecimal()]
    if name != "tokenizer.json":
        return _integers(content.values())
    vocabulary: Any = _object(content, "model").get("vocab")
    if isinstance(vocabulary, list):
        # Unigram models list their words; an id is a place in the list.
        words = list(range(len(cast("list[Any]", vocabulary))))
    else:
        words = _integers(_object(_object(content, "model"), "vocab").values())
    added: Any = content.get("added_tokens")
    tokens = cast("list[Any]", added) if isinstance(added, list) else []
    return words + _integers(_object({"token": token}, "token").get("id") for token in tokens)


def _object(parent: dict[str, Any], name: str) -> dict[str, Any]:
    child = parent.get(name)
    return cast("dict[str, Any]", child) if isinstance(child, dict) else {}


def _integers(values: Iterable[Any]) -> list[int]:
    return [v for v in values if isinstance(v, int) and not isinstance(v, bool)]
