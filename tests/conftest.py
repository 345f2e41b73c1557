"""How the tests are shared between processes: a file stays together, and so do the gates.

A checkout runs one gate at a time, and the gates go on from one that all of them share.
"""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # The mutation runner forks by itself and runs without xdist, whose marker is then unknown.
    for item in items if config.pluginmanager.hasplugin("xdist") else []:
        is_gate = item.path.parent.name == "e2e" and item.path.name.startswith("test_gate")
        item.add_marker(pytest.mark.xdist_group("gate" if is_gate else item.path.name))
