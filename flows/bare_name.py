"""Lets `prefect deployment run phase2-gate` mean `phase2-gate/phase2-gate`: a start-up hook of Prefect.

Prefect wants FLOW/DEPLOYMENT and refuses a bare name. Loaded through the entry point `prefect.plugins` and only
where `prefect.toml` enables plugins, which is this repository's root.
"""

from __future__ import annotations

from typing import Any

from prefect.plugins import register_hook

PREFECT_PLUGIN_API_REQUIRES = ">=0.1,<1"
"""Read by Prefect before it loads a plugin."""


def full_name(name: str) -> str:
    """`phase2-gate` is the deployment of that name of the flow of that name; a full name stays."""
    return name if "/" in name else f"{name}/{name}"


@register_hook
async def setup_environment(*, ctx: object) -> None:
    """Wrap the client's look-up of a deployment by name; called once, when Prefect is imported."""
    from prefect.client.orchestration import PrefectClient

    original = PrefectClient.read_deployment_by_name

    async def read_deployment_by_name(self: PrefectClient, name: str) -> Any:
        return await original(self, full_name(name))

    PrefectClient.read_deployment_by_name = read_deployment_by_name  # type: ignore[method-assign]
