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


def mutate(change):
    """A fresh module, with one change exchanged; the module's names and whether that could be."""
    tree = ast.parse(SOURCE)
    before = compile_tree(tree, "pirl/nowhere.py")
    names = {"__name__": "nowhere"}
    exec(before, names)
    mutants = {m.change: m for m in make_mutants(tree, "pirl/nowhere.py")}
    live = live_functions()
    mutants[change].apply()
    return names, swap(before, compile_tree(tree, "pirl/nowhere.py"), live)


@pytest.mark.parametrize(
    ("change", "call", "value"),
    [
        ("a + 1 -> a - 1", lambda n: n["plain"](10), 9),
        ("a * 2 -> a / 2", lambda n: n["wrapped"](10), 5),
        ("a - x -> a + x", lambda n: n["Thing"]().method(10), 11),
        ("a + 7 -> a - 7", lambda n: n["maker"](10)(), 3),
    ],
)
def test_functions_that_exist_already_run_the_mutated_code(change, call, value):
    names, done = mutate(change)
    assert done
    assert call(names) == value


@pytest.mark.parametrize("change", ["3 -> 4", "5 -> 6"])
def test_code_outside_functions_cannot_be_exchanged(change):
    names, done = mutate(change)
    assert not done
    assert (names["LIMIT"], names["Thing"].scale, names["plain"](1)) == (3, 5, 2)


def test_modules_are_named_as_python_imports_them():
    assert module_name("pirl/runtime/store.py") == "pirl.runtime.store"
    assert module_name("pirl/checkpoint/__init__.py") == "pirl.checkpoint"
