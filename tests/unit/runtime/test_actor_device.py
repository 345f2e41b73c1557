"""Which device an actor computes on, by its rank."""

from __future__ import annotations

import pytest

from pirl.config.recipe import RuntimeConfig
from pirl.runtime import actor

TWO = ("cuda:0", "cuda:1")


@pytest.mark.parametrize(
    ("devices", "expected"),
    [(None, ["mps"] * 5), (("cpu",), ["cpu"] * 5), (TWO, [*TWO, *TWO, "cuda:0"])],
)
def test_actors_take_the_listed_devices_by_turns(devices, expected):
    runtime = RuntimeConfig(actor_device="mps", actor_devices=devices)
    assert [actor.device_of(rank, runtime) for rank in range(5)] == expected


def test_an_actor_builds_its_policy_on_the_device_of_its_rank(monkeypatch):
    class BuiltError(Exception):
        pass

    def build(loaded, *, device, run_id):
        raise BuiltError(device)

    monkeypatch.setattr(actor, "build_session", build)
    loaded = actor.load_config(
        "configs/train_config_pirl_embedded.json", ["--runtime.actor_devices=[cpu,cuda:1]"]
    )
    for rank, device in enumerate(("cpu", "cuda:1")):
        with pytest.raises(BuiltError, match=device):
            actor.run_actor(loaded, rank=rank, stop=None)
