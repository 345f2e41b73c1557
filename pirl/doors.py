"""Where policies, environments and rewards come from: the built-in ones and those that are installed.

A distribution offers one as an entry point of a group below; its name is the `type` that a config names,
its object a kind (`pirl.contract.registry.PolicyKind`, `pirl.envs.kinds.EnvKind`,
`pirl.runtime.rewards.RewardKind`). Nothing is imported before a config names it. Owns finding and loading;
refuses to know what a kind can do. Read `docs/extending.md` next.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from pirl.errors import ConfigError, EnvironmentNotReadyError, FieldError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

POLICIES, ENVS, REWARDS = "pirl.policies", "pirl.envs", "pirl.rewards"

BUILT_IN: Mapping[str, Mapping[str, str]] = {
    POLICIES: {"xvla": "pirl.policies.xvla.kind:KIND"},
    ENVS: {
        "libero": "pirl.envs.libero_kind:KIND",
        "pirl_metaworld": "pirl.envs.metaworld_kind:KIND",
    },
    REWARDS: {
        "time_cost": "pirl.runtime.rewards:TIME_COST",
        "reward_classifier": "pirl.runtime.reward_classifier:KIND",
    },
}
"""Places of the built-in kinds, by group and type. Their names are theirs: no other distribution can take one."""

FIELDS = {POLICIES: "policy.type", ENVS: "env.type", REWARDS: "reward_model.type"}
"""The config field that names a kind of a group."""

DISCOVER = ".discover_packages_path"
"""End of LeRobot's option that names a package to import before a config is read."""

_registered: dict[str, dict[str, Any]] = {group: {} for group in FIELDS}


def group_of(section: str) -> str | None:
    """The group whose kinds a config section names; None for a section of other things."""
    return next((group for group, field in FIELDS.items() if field == f"{section}.type"), None)


def register(group: str, name: str, kind: object) -> None:
    """Offer a kind without an entry point, for a package that `--policy.discover_packages_path` imports.

    Raises:
        ConfigError: the name is taken.
    """
    other = _registered[group].get(name)
    if name in BUILT_IN.get(group, {}) or (other is not None and other is not kind):
        raise _refused(group, name, "a name that is not taken", "register it under another name")
    _registered[group][name] = kind


def installed(group: str) -> tuple[str, ...]:
    """Every type of a group that a config may name: built-in ones, then the others by name."""
    built_in = BUILT_IN.get(group, {})
    others = {*_registered[group], *_offers(group)} - {*built_in}
    return (*built_in, *sorted(others))


def is_installed(group: str, name: object) -> bool:
    """Whether a config may name it; looks for distributions only when it is not built in."""
    return isinstance(name, str) and (name in BUILT_IN.get(group, {}) or name in installed(group))


def origin(group: str, name: str) -> str:
    """Who offers a type: distribution and version, pirl itself, or a package that registered it."""
    if name in BUILT_IN.get(group, {}):
        return "built in"
    offers = _offers(group).get(name, ())
    holders = [f"{o.dist.name} {o.dist.version}" for o in offers if o.dist is not None]
    return ", ".join(holders) or "registered by a package"


def distributions() -> dict[str, str]:
    """Every distribution that offers a kind, and its version."""
    offers = [o for group in FIELDS for held in _offers(group).values() for o in held]
    return {offer.dist.name: offer.dist.version for offer in offers if offer.dist is not None}


def load(group: str, name: str) -> Any:
    """The kind of a type. Any: one of the three classes that the module's docstring names.

    Raises:
        ConfigError: nobody offers it, or two distributions do.
        EnvironmentNotReadyError: its distribution cannot be imported here.
    """
    place = BUILT_IN.get(group, {}).get(name)
    if place is not None:
        module, _, attribute = place.partition(":")
        return getattr(importlib.import_module(module), attribute)
    if name in _registered[group]:
        return _registered[group][name]
    offers = _offers(group).get(name, ())
    if len(offers) != 1:
        raise _not_one(group, name, offers)
    return _load(offers[0])


def discover(package: str) -> None:
    """Import a package and its modules, as LeRobot's `discover_packages_path` does; they call `register`.

    Raises:
        ConfigError: it cannot be imported.
    """
    import pkgutil

    try:
        module = importlib.import_module(package)
        for found in pkgutil.iter_modules(getattr(module, "__path__", ()), f"{package}."):
            importlib.import_module(found.name)
    except ImportError as error:
        wrong = FieldError(
            field=DISCOVER.removeprefix("."),
            value=package,
            expected=f"a package that can be imported ({error})",
            fix="install it, or put its folder on PYTHONPATH",
        )
        raise ConfigError([wrong], source="command line") from error


@cache
def _offers(group: str) -> dict[str, tuple[EntryPoint, ...]]:
    # Only now: a config of built-in types asks for no distribution.
    from importlib.metadata import entry_points

    found: dict[str, tuple[EntryPoint, ...]] = {}
    for entry in entry_points(group=group):
        earlier = found.get(entry.name, ())
        # A folder that is on the path twice offers the same thing twice.
        if entry.value not in [one.value for one in earlier]:
            found[entry.name] = (*earlier, entry)
    return found


@cache
def _load(offer: EntryPoint) -> Any:
    try:
        return offer.load()
    except (ImportError, AttributeError) as error:
        holder = "" if offer.dist is None else f" of {offer.dist.name}"
        raise EnvironmentNotReadyError(
            f"{offer.group} {offer.name}{holder} cannot be imported: {error}",
            remedy="install what that distribution needs, or remove it",
        ) from error


def _not_one(group: str, name: str, offers: Sequence[EntryPoint]) -> ConfigError:
    if offers:
        holders = sorted("?" if o.dist is None else o.dist.name for o in offers)
        expected = f"one distribution that offers it, not {', '.join(holders)}"
        return _refused(group, name, expected, "remove all but one of them")
    expected = f"one of: {', '.join(installed(group)) or 'none'} (built in or installed)"
    return _refused(group, name, expected, f"install a distribution that offers {name}")


def _refused(group: str, name: str, expected: str, fix: str) -> ConfigError:
    wrong = FieldError(field=FIELDS[group], value=name, expected=expected, fix=fix)
    return ConfigError([wrong])
