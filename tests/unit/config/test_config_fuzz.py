"""Random damage to a valid config: it loads, or it is refused with an explanation; nothing else."""

import json

from config_builders import EMBEDDED, LIBERO, resolved
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pirl.config.load import load_config
from pirl.errors import ConfigError, EnvironmentNotReadyError

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["pi-rl", "flow-sde", "flow-noise", "xvla", "libero", "cuda", "\0", "π"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = st.one_of(
    st.text(max_size=8), st.sampled_from(["path", "type", "recipe", "pirl", "policy", "gamma"])
)


def damage(data, node, depth=0):
    """Go down at random and replace, remove or add something there."""
    key = data.draw(st.sampled_from(sorted(node))) if node else None
    child = node.get(key)
    if isinstance(child, dict) and child and depth < 4 and data.draw(st.booleans()):
        damage(data, child, depth + 1)
        return
    action = data.draw(st.sampled_from(["replace", "remove", "add"]))
    if action == "add" or key is None:
        node[data.draw(KEYS)] = data.draw(VALUES)
    elif action == "remove":
        del node[key]
    else:
        node[key] = data.draw(VALUES)


def outcome(file, overrides=()):
    refusal = None
    try:
        load_config(file, overrides)
    except (ConfigError, EnvironmentNotReadyError) as error:
        refusal = error
    if isinstance(refusal, ConfigError):
        assert refusal.errors
        assert all(e.field and e.expected and e.fix for e in refusal.errors)
        assert str(refusal)
    elif refusal is not None:
        assert refusal.remedy


FUZZ = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@FUZZ
@given(data=st.data(), file=st.sampled_from([EMBEDDED, LIBERO]), times=st.integers(1, 3))
def test_damaged_config_is_loaded_or_refused(data, file, times, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    tree = resolved(file)
    for _ in range(times):
        damage(data, tree)
    target = tmp_path / "config.json"
    target.write_text(json.dumps(tree), encoding="utf-8")
    outcome(target)


@FUZZ
@given(
    tokens=st.lists(
        st.one_of(
            st.text(max_size=10),
            st.builds(
                "--{}={}".format,
                st.sampled_from(
                    [
                        *("pirl.gamma", "pirl.betas", "pirl", "policy", "policy.path", "recipe"),
                        *("env.task_ids", "env.type", "seed", "resume", "runtime.token"),
                    ]
                ),
                st.one_of(st.text(max_size=6), VALUES.map(json.dumps)),
            ),
        ),
        max_size=3,
    )
)
def test_random_overrides_are_taken_or_refused(tokens, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    outcome(EMBEDDED, tokens)


@FUZZ
@given(content=st.binary(max_size=64))
def test_random_bytes_are_refused(content, tmp_path):
    target = tmp_path / "config.json"
    target.write_bytes(content)
    outcome(target)
