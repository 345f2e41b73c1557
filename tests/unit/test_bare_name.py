"""The installed Prefect is the one whose look-up by name `flows/bare_name.py` may wrap."""

from __future__ import annotations

import asyncio
import inspect

import prefect
import pytest
from prefect.client.orchestration import PrefectClient

from flows import bare_name

ORIGINAL = inspect.unwrap(PrefectClient.read_deployment_by_name)
"""Prefect's own, whether or not its start-up hook ran in this process."""


def test_the_client_has_the_method_that_is_wrapped():
    assert prefect.__version__.startswith(bare_name.VERSION)
    assert ORIGINAL.__module__.startswith("prefect.client")
    assert bare_name.takes_a_name(ORIGINAL)


def test_prefect_itself_still_refuses_a_bare_name():
    """When it no longer does, `flows/bare_name.py` can go."""
    with pytest.raises(ValueError, match="FLOW_NAME>/<DEPLOYMENT_NAME"):
        asyncio.run(ORIGINAL(object(), "phase2-gate"))


@pytest.mark.parametrize(
    ("version", "method", "wraps"),
    [
        (prefect.__version__, ORIGINAL, True),
        ("3.10.0", ORIGINAL, False),
        (prefect.__version__, lambda self, name, version: None, False),
    ],
)
def test_only_a_known_client_is_wrapped(monkeypatch, version, method, wraps):
    monkeypatch.setattr(prefect, "__version__", version)
    monkeypatch.setattr(PrefectClient, "read_deployment_by_name", method)
    asyncio.run(bare_name.setup_environment(ctx=None))
    assert (PrefectClient.read_deployment_by_name is not method) == wraps


@pytest.mark.parametrize("name", ["phase2-gate", "phase2-gate/phase2-gate", "phase2-gate/nightly"])
def test_a_bare_name_is_the_deployment_of_the_flow_of_that_name(name):
    expected = name if "/" in name else "phase2-gate/phase2-gate"
    assert bare_name.full_name(name) == expected
