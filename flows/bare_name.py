"""Lets `prefect deployment run phase2-gate` mean `phase2-gate/phase2-gate`: a start-up hook of Prefect.

Prefect's client splits the name at "/" and refuses one without it before it asks the server: no name of a flow
or of a deployment and no setting gets around that, so its one look-up by name is wrapped. Loaded through the entry
point `prefect.plugins` and only where `prefect.toml` enables plugins, which is this repository's root.
`tests/unit/test_bare_name.py` holds the installed Prefect against what is assumed here.
"""

from __future__ import annotations

import inspect
import logging
from functools import wraps
from typing import Any

import prefect
from prefect.plugins import register_hook

logger = logging.getLogger(__name__)

PREFECT_PLUGIN_API_REQUIRES = ">=0.1,<1"
"""Read by Prefect before it loads a plugin."""
VERSION = "3.9."
"""Of the Prefect whose client is known."""


def full_name(name: str) -> str:
    """`phase2-gate` is the deployment of that name of the flow of that name; a full name stays."""
    return name if "/" in name else f"{name}/{name}"


@register_hook
async def setup_environment(*, ctx: object) -> None:
    """Wrap the client's look-up of a deployment by name; called once, when Prefect is imported."""
    from prefect.client.orchestration import PrefectClient

    original = PrefectClient.read_deployment_by_name
    if not prefect.__version__.startswith(VERSION) or not takes_a_name(original):
        logger.warning("Prefect %s: name a deployment as FLOW/DEPLOYMENT", prefect.__version__)
        return

    @wraps(original)
    async def read_deployment_by_name(self: PrefectClient, name: str) -> Any:
        return await original(self, full_name(name))

    PrefectClient.read_deployment_by_name = read_deployment_by_name  # type: ignore[method-assign]


def takes_a_name(method: Any) -> bool:
    """Whether a method is a coroutine of (self, name)."""
    return inspect.iscoroutinefunction(method) and [*inspect.signature(method).parameters] == [
        "self",
        "name",
    ]
