"""A damaged tokenizer is one error; one that brings code is refused, and nobody is asked whether to run it."""

from __future__ import annotations

import json
import os
import sys

import pytest
from contract_builders import a_config

from pirl.errors import EnvironmentNotReadyError
from pirl.policies.xvla.processors import tokenize_instruction
from pirl.policies.xvla.tiny import write_tiny_tokenizer
from pirl.policies.xvla.tokenizer import TOKENIZER_MAX_BYTES

CODE = "raise SystemExit('code of the tokenizer ran')\n"
DEEP = "[" * 100_000


@pytest.fixture
def no_questions(monkeypatch):
    """Standard input that fails the test when somebody reads it."""

    class Asked:
        def readline(self, *_: object) -> str:
            raise AssertionError("somebody asked on standard input")

    monkeypatch.setattr(sys, "stdin", Asked())


def refuse(folder) -> str:
    with pytest.raises(EnvironmentNotReadyError) as caught:
        tokenize_instruction(a_config(tokenizer_name=str(folder)), "open the door")
    assert "tokenizer_name" in caught.value.remedy or "restore" in caught.value.remedy
    return str(caught.value)


@pytest.mark.parametrize("kind", ["PreTrainedTokenizerFast", "Unheard", None])
@pytest.mark.usefixtures("no_questions")
def test_a_tokenizer_with_code_of_its_own_is_refused(kind, tmp_path):
    folder = write_tiny_tokenizer(tmp_path / "words")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"auto_map": {"AutoTokenizer": ["own.Own", None]}, "tokenizer_class": kind}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(CODE)
    assert "auto_map" in refuse(folder)


def bad_regex(text: str) -> str:
    tree = json.loads(text)
    tree["pre_tokenizer"] = {
        "type": "Split", "pattern": {"Regex": "(" * 50}, "behavior": "Isolated", "invert": False,
    }  # fmt: skip
    return json.dumps(tree)


DAMAGE = {
    "deep": ("tokenizer.json", lambda _: DEEP),
    "deep config": ("tokenizer_config.json", lambda _: DEEP),
    "no json": ("tokenizer.json", lambda _: "{"),
    "a list": ("tokenizer.json", lambda _: "[]"),
    "a config that is a list": ("tokenizer_config.json", lambda _: "[]"),
    "a key twice": ("tokenizer_config.json", lambda _: '{"a": 1, "a": 2}'),
    "a wrong regular expression": ("tokenizer.json", bad_regex),
    "wrong types": ("tokenizer.json", lambda _: '{"model": 3, "added_tokens": {"a": 1}}'),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.usefixtures("no_questions")
def test_a_damaged_tokenizer_is_one_error_with_what_to_do(kind, tmp_path):
    folder = write_tiny_tokenizer(tmp_path / "words")
    name, damage = DAMAGE[kind]
    (folder / name).write_text(damage((folder / name).read_text()))
    assert str(folder) in refuse(folder)


@pytest.mark.parametrize(
    "name",
    ["tokenizer.json", "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json"],
)
@pytest.mark.parametrize("kind", ["device", "pipe", "too large"])
@pytest.mark.usefixtures("no_questions")
def test_a_tokenizer_file_that_never_ends_is_one_error(kind, name, tmp_path):
    folder = write_tiny_tokenizer(tmp_path / "words")
    file = folder / name
    file.unlink(missing_ok=True)
    if kind == "device":
        file.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.touch()
        os.truncate(file, TOKENIZER_MAX_BYTES + 1)
    assert name in refuse(folder)
