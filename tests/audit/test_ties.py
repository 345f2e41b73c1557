"""What ties a bundle together, asked one tie at a time: the edges that a whole verification does not reach."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from tampering import edit, load

from pirl.audit import page, verify_ties
from pirl.audit.records.files import STEPS
from pirl.audit.signature import is_signed, load_private_key, load_public_key
from pirl.errors import ConfigError

RUN = "metadata/run.json"
FIRST = STEPS[0]


def set_run(bundle, **changes):
    edit(RUN, lambda run: run.update(changes))(bundle)


def objections(bundle) -> str:
    return "\n".join(map(str, verify_ties.metadata(bundle)))


def off_times(bundle) -> list[str]:
    return [p.where for p in verify_ties.chain(bundle) if p.check == "time"]


def test_no_gate_began_before_its_format(bundle):
    set_run(bundle, started_utc="2026-11-01T00:00:00Z")
    assert objections(bundle) == ""
    set_run(bundle, started_utc="2026-10-31T23:59:59Z")
    assert "started_utc, ended_utc" in objections(bundle)


def test_a_gate_may_end_a_day_after_the_verifiers_clock_and_no_second_later(bundle, monkeypatch):
    ended = load(bundle, RUN)["ended_utc"]

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return verify_ties._utc(ended) - verify_ties.CLOCK_AHEAD

    monkeypatch.setattr(verify_ties, "datetime", Clock)
    assert objections(bundle) == ""
    later = datetime.fromtimestamp(verify_ties._utc(ended).timestamp() + 1, UTC)
    set_run(bundle, ended_utc=later.strftime("%Y-%m-%dT%H:%M:%SZ"))
    assert "started_utc, ended_utc" in objections(bundle)


@pytest.mark.parametrize("nonce", ["z" * 31 + "a", "ab" * 15, "0" * 32])
def test_a_nonce_is_32_hex_digits_that_differ(bundle, nonce):
    set_run(bundle, nonce=nonce)
    assert objections(bundle).startswith("metadata: metadata/run.json: nonce ")


@pytest.mark.parametrize(
    ("dirty", "patch", "fits"),
    [
        (False, None, True),
        (True, "ab" * 32, True),
        (True, "not hex", False),
        (True, None, False),
        (False, "ab" * 32, False),
    ],
)
def test_a_dirty_tree_has_a_patch_and_a_clean_one_has_none(bundle, dirty, patch, fits):
    changes = {"git_dirty": dirty, "patch_sha256": patch}
    edit("metadata/source.json", lambda source: source.update(changes))(bundle)
    assert ("patch_sha256" not in objections(bundle)) is fits


def test_a_step_may_end_in_the_second_in_which_it_began(bundle):
    edit(f"raw/{FIRST}/step.json", lambda seal: seal.update(ended_s=seal["started_s"]))(bundle)
    assert off_times(bundle) == []


def test_a_step_that_never_ended_is_no_step_in_order(bundle):
    edit(RUN, lambda run: run["steps"][FIRST].update(ended_utc=None))(bundle)
    assert off_times(bundle) == [f"raw/{FIRST}/step.json"]


def test_a_sealed_file_that_is_gone_is_told_like_one_that_was_altered(bundle):
    (bundle / "raw" / FIRST / "config.json").unlink()
    said = [str(p) for p in verify_ties.chain(bundle)]
    assert f"chain: raw/{FIRST}/config.json: not what {FIRST} was sealed with" in said


def test_a_config_that_only_its_readable_form_holds_is_refused(bundle):
    assert verify_ties.config(bundle) == []
    edit("config/train_config.json", lambda config: config.update(seed=8))(bundle)
    (problem,) = verify_ties.config(bundle)
    assert problem.what == "not the config of config/canonical.json"


# Keys


def test_keys_of_another_algorithm_are_refused(tmp_path):
    key = X25519PrivateKey.generate()
    private, public = tmp_path / "key", tmp_path / "pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    with pytest.raises(ConfigError, match="--sign"):
        load_private_key(private)
    with pytest.raises(ConfigError, match="--key"):
        load_public_key(public)


def test_a_file_that_is_no_private_key_is_refused(tmp_path):
    (tmp_path / "key").write_text("x")
    with pytest.raises(ConfigError, match="--sign"):
        load_private_key(tmp_path / "key")


def test_a_signature_has_one_form():
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from pirl.audit.signature import sign

    key = Ed25519PrivateKey.generate()
    text = sign(key, b"said")
    assert is_signed(key.public_key(), b"said", text)
    for other in (text.strip(), " " + text, text + "\n", text.replace("=", "") + "!", "AAAA\n"):
        assert not is_signed(key.public_key(), b"said", other)
    assert not is_signed(key.public_key(), b"other", text)


# The page


@pytest.mark.parametrize(("more", "is_shown"), [(0, True), (1, False)])
def test_a_video_of_more_than_eight_mebibytes_stays_a_file_beside_the_page(bundle, more, is_shown):
    with (bundle / "media" / "rollout.mp4").open("r+b") as video:
        video.truncate(8 * 2**20 + more)
    assert ('src="data:video/mp4' in page.render_html(bundle)) is is_shown


@pytest.mark.parametrize("gone", ["rollout.mp4", "rollout.png"])
def test_a_video_without_its_first_frame_is_not_shown(bundle, gone):
    (bundle / "media" / gone).unlink()
    assert 'src="data:video/mp4' not in page.render_html(bundle)


@pytest.mark.parametrize(
    ("label", "verdict", "kind"),
    [
        ("passed (fallback: embedded)", "passed", "fallback"),
        ("passed (own config: libero)", "passed", "own"),
        ("passed", "passed", "pass"),
        ("failed", "failed", "fail"),
        ("not run", "not run", "open"),
    ],
)
def test_the_colour_of_the_page_is_the_verdict_and_a_fallback_has_its_own(
    bundle, label, verdict, kind
):
    edit("verdict.json", lambda record: record.update(label=label, verdict=verdict))(bundle)
    assert f'<header class="{kind}">' in page.render_html(bundle)
