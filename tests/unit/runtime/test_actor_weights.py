"""An actor copies published weights into its policy and lets go of the message that they came in."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import Any

import torch

from pirl.runtime.actor import Actor
from pirl.transport.wire import ParameterMessage


def test_the_message_is_let_go_and_a_second_look_at_the_version_loads_nothing():
    loaded: list[dict[str, Any]] = []
    algorithm = SimpleNamespace(load_weights=lambda weights: loaded.append(dict.fromkeys(weights)))
    actor: Any = SimpleNamespace(_session=SimpleNamespace(algorithm=algorithm))
    weight = torch.zeros(4)
    message = ParameterMessage(identity={}, version=3, weights={"a": weight})
    memory = weakref.ref(weight)
    del weight
    Actor._take_over(actor, message)
    gc.collect()
    assert memory() is None
    Actor._take_over(actor, message)
    assert (loaded, message.version) == ([{"a": None}], 3)
