"""A bundle of the profile `own`: accepted as what it is and as no other profile, however it is dressed up."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from bundle_builder import Story, build_bundle
from tampering import edit, rewrite

from pirl import doors
from pirl.audit.outcomes import ASKED_FOR, CANNOT_RUN
from pirl.audit.page import render_html
from pirl.audit.records.files import OWN, VALIDATE
from pirl.audit.verify import verify_bundle
from pirl.config.lerobot_fields import EnvConfig

LABEL = "passed (own config: pointreach)"
RUN, PROFILE = "metadata/run.json", f"raw/{VALIDATE}/profile.json"


@dataclass
class PlainConfig(EnvConfig):
    """An environment without settings of its own."""

    episode_length: int = 95


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The bundle of a config whose environment an installed distribution offers."""
    kind = SimpleNamespace(rules=(), cameras=lambda _: [], config_class=lambda: PlainConfig)
    monkeypatch.setitem(doors._registered[doors.ENVS], "pointreach", kind)
    monkeypatch.setattr(doors, "distributions", lambda: {"pirl-pointreach": "0.1.0"})
    known = EnvConfig.get_known_choices()
    before = dict(known)
    yield build_bundle(tmp_path, Story(profile=OWN)).folder
    for name in known.keys() - before.keys():
        del known[name]


def command(*words):
    return edit(RUN, lambda record: record.update(command=["pirl", "gate", *words]))


def profile(**changes):
    return edit(PROFILE, lambda record: record.update(changes))


def reasons(bundle):
    report = verify_bundle(bundle)
    assert report.exit_code == (0 if report.is_accepted else 1)
    return "\n".join(report.reasons)


def test_it_is_accepted_and_shown_as_neither_libero_nor_a_fallback(own):
    report = verify_bundle(own)
    assert report.reasons == []
    assert report.verdict.label == LABEL
    assert report.verdict.limits[0].startswith("The profiles of pirl, LIBERO's among them")
    assert (
        (own / "report.md")
        .read_text()
        .startswith(f"# Phase-2 gate: {LABEL.upper()[:6]}{LABEL[6:]}")
    )
    page = render_html(own)
    assert '<header class="own">' in page
    assert "fallback:" not in page.partition("<body")[2]


def test_a_verifier_without_the_kind_says_what_to_install(own, monkeypatch):
    monkeypatch.delitem(doors._registered[doors.ENVS], "pointreach")
    found = reasons(own)
    assert "env.type=pointreach" in found
    assert "install its distribution (metadata/environment.json)" in found


AS_EMBEDDED = ("--profile", "embedded", "--variant", "flow-sde")
AS_LIBERO = ("--profile", "libero", "--variant", "flow-sde")
DRESSED_UP = {
    "embedded, by its record alone": ([profile(profile="embedded")], "profile_inconsistent"),
    "embedded, with reason and command": (
        [profile(profile="embedded", reason=ASKED_FOR), command(*AS_EMBEDDED)],
        "profile_inconsistent",
    ),
    "embedded, with its environment type": (
        [
            profile(profile="embedded", reason=ASKED_FOR, env_type="pirl_metaworld"),
            command(*AS_EMBEDDED),
        ],
        "profile_inconsistent",
    ),
    "libero, with reason and command": (
        [profile(profile="libero", reason=""), command(*AS_LIBERO)],
        "profile_inconsistent",
    ),
    "a fallback": ([profile(reason=f"{CANNOT_RUN}no assets")], "profile.json reason"),
    "no reason": ([profile(reason="")], "profile.json reason"),
    "a command without its file": (
        [command("--profile", "own", "--variant", "flow-sde")],
        "0 config files of profile own",
    ),
    "a command with two files": (
        [command("--profile", "own", "--config", "a", "--config_path=b", "--variant", "flow-sde")],
        "2 config files of profile own",
    ),
    "another environment type": ([profile(env_type="reachpoint")], "profile_inconsistent"),
    "another version of the plug-in": (
        [
            edit(
                f"raw/{VALIDATE}/inputs.json",
                lambda r: r["environment"].update(version="pirl-pointreach 9"),
            )
        ],
        "inputs.json environment.version",
    ),
}


@pytest.mark.parametrize("name", DRESSED_UP)
def test_dressed_up_as_something_else_it_is_refused(own, name):
    tampers, reason = DRESSED_UP[name]
    for tamper in tampers:
        tamper(own)
    rewrite(own)
    assert reason in reasons(own)


def test_no_other_profile_was_started_with_a_file(bundle):
    command("--profile", "embedded", "--config", "mine.json", "--variant", "flow-sde")(bundle)
    rewrite(bundle)
    assert "1 config files of profile embedded" in reasons(bundle)


def test_own_on_liberos_environment_is_not_the_profile_libero(tmp_path):
    story = Story(profile=OWN, env_type="libero")
    built = build_bundle(tmp_path, story)
    assert verify_bundle(built.folder).reasons == []
    assert built.verdict.label == "passed (own config: libero)"
    profile(profile="libero", reason="")(built.folder)
    command(*AS_LIBERO)(built.folder)
    rewrite(built.folder)
    # The rewarded run of that profile is missing.
    assert "is missing" in reasons(built.folder)
