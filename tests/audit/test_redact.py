"""What a bundle may not say, and what replaces it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from pirl.audit.redact import Redactor, find_leaks
from pirl.errors import EvidenceError

REPO = Path("/srv/somewhere/checkout")


def redactor(**changes):
    return Redactor(folders=((str(REPO), "<repo>"), ("/home/ann", "<home>")), **changes)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("at /srv/somewhere/checkout/pirl/x.py:3", "at <repo>/pirl/x.py:3"),
        ("/srv/somewhere/checkout", "<repo>"),
        ('"/home/ann/.cache/a"', '"<home>/.cache/a"'),
        ("--path=/home/ann/a", "--path=<home>/a"),
        ("/srv/somewhere/checkout-2/a", "<path>/a"),
        ("libEGL at /usr/lib/x86_64/libEGL.so.1", "libEGL at <path>/libEGL.so.1"),
        ("write to some.body+x@mail.example.org now", "write to <e-mail> now"),
    ],
)
def test_folder_becomes_a_mark(text, clean):
    assert redactor().clean(text, where="log") == clean


@pytest.mark.parametrize(
    "text",
    [
        "update/policy_loss and rollout/successes",
        "https://in-toto.io/Statement/v1",
        "configs/train_config.json@0123456789ab",
        "1/2, 3/4 and/or 10/10",
        "/transport.LearnerService/SendTransitions failed",
        "/dev/shm/pirl-1 is gone",
        "<repo>/.venv/bin/python",
        "&lt;repo&gt;/.venv/bin/python",
        "num_tokens: 123456789",
        "give --runtime.token again when the file is loaded",
        "--runtime.token (hidden) and --runtime.token=null",
        "a bearer certificate",
        '"token": null, "token": "<set>"',
        "tokenizer: florence2base01",
        "torch@2.11.0 git@host: phase2_gate@flow-sde",
        "</td></tr><br/>",
        "data:image/png;base64,/9j/4AAQ+/abc/def==",
    ],
)
def test_ordinary_text_is_left_alone(text):
    assert redactor().clean(text, where="log") == text


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("absolute path", "see /home/ann/x"),
        ("absolute path", '{"a":"\\/home\\/ann"}'),
        ("absolute path", "file:/home/ann/x"),
        ("file URL", "file:///home/ann/x"),
        ("Windows path", r"C:\Users\ann"),
        ("access token", "hf_" + "aB3d" * 8),
        ("access token", "ghp_" + "aB3d" * 9),
        ("access token", "eyJhbGciOiJI1.eyJzdWIiOiIx1.SflKxwRJSMeKK1"),
        ("private key", "-----BEGIN PRIVATE KEY-----"),
        ("credential", "runtime.token = s3cr3t-value"),
        ("credential", '"api_key": "abc123def456"'),
        ("credential", "Authorization: Bearer abc123def456"),
        ("credential", "PIRL_TOKEN=9f86d08188"),
        ("credential in a URL", "https://ann:pass@host/x"),
        ("credential given as an option", "pirl gate --runtime.token not-to-be-seen"),
        ("credential given as an option", '["--runtime.token", "not-to-be-seen"]'),
        ("credential given as an option", "call metadata pirl-token Sesame-open"),
        ("bearer token", "sent Bearer abcDEF-123"),
        ("e-mail address", "ann@example.org"),
    ],
)
def test_leak_is_found(kind, text):
    assert kind in {leak.kind for leak in find_leaks("first line\n" + text)}
    assert all(leak.line == 2 for leak in find_leaks("first line\n" + text))


def test_report_of_a_leak_does_not_leak():
    secret = "hf_" + "aB3d" * 8
    with pytest.raises(EvidenceError) as refused:
        redactor().clean(f"x {secret} y", where="log")
    assert secret not in str(refused.value)
    assert "access token" in str(refused.value)


def test_configured_secret_is_refused_and_not_shown():
    with pytest.raises(EvidenceError) as refused:
        redactor(secrets=("open sesame",)).clean("say open sesame", where="learner.log")
    assert "learner.log" in str(refused.value)
    assert "sesame" not in str(refused.value)


@pytest.mark.parametrize(
    "given", [["--runtime.token=sesame-open-1"], ["--runtime.token", "sesame-open-1"]]
)
def test_a_token_given_as_an_override_is_hidden_in_the_command(given):
    argv = ["pirl", "gate", *given, "--out", "/home/ann/x"]
    clean = redactor(secrets=("sesame-open-1",)).arguments(argv, where="commands.txt")
    assert "sesame" not in " ".join(clean)
    assert clean[-1] == "<home>/x"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("x /opt/some/where/else", "line 1: absolute path (/opt/some/wh...)"),
        ("a\nb\n" + "hf_" + "aB3d" * 8, "line 3: access token (hf_a...)"),
    ],
)
def test_a_leak_is_shown_by_its_line_and_its_first_characters(text, shown):
    assert [str(leak) for leak in find_leaks(text)] == [shown]


def test_secret_too_short_to_search_for_is_refused():
    with pytest.raises(EvidenceError):
        Redactor.for_this_machine(REPO, secrets=("abcde",))
    assert Redactor.for_this_machine(REPO, secrets=("abcdef",)).secrets == ("abcdef",)


@pytest.mark.parametrize(
    ("host", "clean"),
    [("node", "on <host>"), ("box", "on box"), ("localhost", "on localhost")],
)
def test_a_host_whose_name_is_a_word_or_everybodys_keeps_it(host, clean, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    assert Redactor.for_this_machine(REPO).clean(f"on {host}", where="log") == clean


def test_this_machine_is_not_named(tmp_path):
    known = Redactor.for_this_machine(
        tmp_path / "repo", folders={str(tmp_path / "assets"): "<assets>"}
    )
    host = socket.gethostname()
    text = f"{tmp_path}/repo/a {tmp_path}/assets/b {Path.home()}/c on {host}"
    clean = known.clean(text, where="log")
    assert clean.startswith("<repo>/a <assets>/b <home>/c on ")
    assert len(host) < 4 or host == "localhost" or host not in clean


def test_inner_folder_wins_over_the_folder_around_it(tmp_path):
    known = Redactor.for_this_machine(tmp_path, folders={str(tmp_path / ".venv"): "<v>"})
    assert known.clean(f"{tmp_path}/.venv/bin", where="log") == "<v>/bin"
