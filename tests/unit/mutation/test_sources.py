"""Live functions take mutated code; what cannot be exchanged is declined with nothing changed."""

from __future__ import annotations

import ast

import pytest
from mutants import make_mutants
from sources import compile_tree, live_functions, module_name, swap

SOURCE = """
from functools import wraps

LIMIT = 3

def plain(a):
    return a + 1

def loud(call):
    @wraps(call)
    def outer(a):
        return call(a)
    return outer

@loud
def wrapped(a):
    return a * 2

class Thing:
    scale = 5

    def method(self, a):
        return [a - x for x in (1,)][0]

def maker(a):
    def inner():
        if a:
            return a + 7
        return 0
    return inner
"""


CALLS = {
    "a + 1 -> a - 1": (lambda n: n["plain"](10), 9),
    "a * 2 -> a / 2": (lambda n: n["wrapped"](10), 5),
    "a - x -> a + x": (lambda n: n["Thing"]().method(10), 11),
    "a + 7 -> a - 7": (lambda n: n["maker"](10)(), 3),
}
OUTSIDE = ("3 -> 4", "5 -> 6")


@pytest.fixture(scope="module")
def mutated():
    """A fresh module for each change, which is exchanged; the module's names and whether that could be."""
    fresh = {}
    for change in (*CALLS, *OUTSIDE):
        tree = ast.parse(SOURCE)
        # A file of its own: functions are found by file and line.
        file = f"pirl/nowhere_{len(fresh)}.py"
        before, names = compile_tree(tree, file), {"__name__": "nowhere"}
        exec(before, names)
        fresh[change] = (file, tree, before, names)
    live, found = live_functions(), {}
    for change, (file, tree, before, names) in fresh.items():
        {m.change: m for m in make_mutants(tree, file)}[change].apply()
        found[change] = (names, swap(before, compile_tree(tree, file), live))
    return found


@pytest.mark.parametrize("change", CALLS)
def test_functions_that_exist_already_run_the_mutated_code(change, mutated):
    names, done = mutated[change]
    call, value = CALLS[change]
    assert done
    assert call(names) == value


@pytest.mark.parametrize("change", OUTSIDE)
def test_code_outside_functions_cannot_be_exchanged(change, mutated):
    names, done = mutated[change]
    assert not done
    assert (names["LIMIT"], names["Thing"].scale, names["plain"](1)) == (3, 5, 2)


def test_modules_are_named_as_python_imports_them():
    assert module_name("pirl/runtime/store.py") == "pirl.runtime.store"
    assert module_name("pirl/checkpoint/__init__.py") == "pirl.checkpoint"
