"""Each operator changes what it says, names it without lines, and leaves the rest alone."""

from __future__ import annotations

import ast

import pytest
from mutants import OPERATORS, make_mutants


def changes(source, operator=None):
    """Changes that a module has, of one operator or of all."""
    mutants = make_mutants(ast.parse(source), "a.py")
    return [m.change for m in mutants if operator in (None, m.operator)]


CASES = [
    ("comparison", "x = a < b", ["a < b -> a <= b"]),
    ("comparison", "x = a >= b", ["a >= b -> a > b"]),
    ("comparison", "x = a is not None", ["a is not None -> a is None"]),
    ("comparison", "x = a not in b", ["a not in b -> a in b"]),
    ("comparison", "x = a < b == c", ["a < b == c -> a <= b == c", "a < b == c -> a < b != c"]),
    ("arithmetic", "x = a + b", ["a + b -> a - b"]),
    ("arithmetic", "x = a / b", ["a / b -> a * b"]),
    ("arithmetic", "x = a // b", ["a // b -> a % b"]),
    ("arithmetic", "x = a & b", ["a & b -> a | b"]),
    ("arithmetic", "x = a ** b", ["a ** b -> a * b"]),
    ("arithmetic", "x += b", ["x += b -> x -= b"]),
    ("boolean", "x = a and b", ["a and b -> a or b", "a and b -> b", "a and b -> a"]),
    ("boolean", "x = not a", ["not a -> a"]),
    ("constant", "x = 0", ["0 -> 1"]),
    ("constant", "x = 2.5", ["2.5 -> 3.5"]),
    ("constant", "x = True", ["True -> False"]),
    ("constant", "x = -a", ["-a -> a"]),
    ("condition", "if a:\n    b()", ["if a: -> if True:", "if a: -> if False:"]),
    ("condition", "while a:\n    b()", ["while a: -> while False:"]),
    (
        "condition",
        "x = a if b else c",
        ["a if b else c -> a if True else c", "a if b else c -> a if False else c"],
    ),
    ("condition", "x = [a for a in b if a]", ["for a in b if a -> for a in b"]),
    ("call", "x = a.detach()", ["a.detach() -> a"]),
    ("call", "x = min(a, b)", ["min(a, b) -> max(a, b)"]),
    ("call", "x = a.sum()", ["a.sum() -> a.mean()"]),
    ("keyword", "x = a.sum_of(keepdim=b)", ["a.sum_of(keepdim=b) -> a.sum_of()"]),
    ("slice", "x = a[b:]", ["b: -> b + 1:"]),
    ("deletion", "a()", ["a() -> pass"]),
    ("deletion", "raise a", ["raise a -> pass"]),
    ("deletion", "a.b = c", ["a.b = c -> pass"]),
    ("deletion", "a[0] = c", ["a[0] = c -> pass"]),
    ("deletion", "a += c", ["a += c -> pass"]),
    ("jump", "for a in b:\n    continue", ["continue -> break"]),
    ("context", "with a:\n    b()", ["with a: -> if True:"]),
    ("context", "with a, b:\n    c()", ["with a, b: -> with b:", "with a, b: -> with a:"]),
]


@pytest.mark.parametrize(("operator", "source", "expected"), CASES, ids=lambda c: str(c)[:30])
def test_operator_makes_its_changes_and_no_other(operator, source, expected):
    assert changes(source, operator) == expected


def test_every_operator_of_the_documentation_has_a_case():
    assert {operator for operator, _, _ in CASES} == {name for name, _ in OPERATORS}


UNTOUCHED = [
    '"""Words: 1 < 2."""',
    "import a",
    "def f(x: 1 = None) -> 2: ...",
    "assert a < 1",
    "x = f'{1 + 2}'",
    "x = 'a' + b",
    "log.info(1 + 2)",
    "__all__ = [1]",
    "if TYPE_CHECKING:\n    a = 1",
    "@a(b=True)\ndef f(): ...",
    "class A(Protocol):\n    a = 1",
    "x = cast(1, a)",
    "x = zip(a, strict=True)",
    "x: Literal[1]",
]


@pytest.mark.parametrize("source", UNTOUCHED)
def test_what_no_test_could_see_is_left_alone(source):
    assert changes(source) == []


def test_the_text_of_an_error_is_left_alone():
    assert changes("raise A(1 + 2, b < c)") == ["raise A(1 + 2, b < c) -> pass"]


def test_a_mutant_that_the_condition_already_makes_is_not_made_again():
    assert changes("if a == b:\n    raise c") == [
        "if a == b: -> if True:",
        "if a == b: -> if False:",
    ]


def test_names_survive_shifted_lines_and_reformatted_source():
    one = make_mutants(ast.parse("def f():\n    return (1 +\n            a)"), "a.py")
    other = make_mutants(ast.parse("\n\n\ndef f():\n    # why\n    return 1 + a"), "a.py")
    assert [m.key for m in one] == [m.key for m in other]
    assert [m.digest for m in one] == [m.digest for m in other]


def test_equal_changes_of_a_statement_are_told_apart():
    mutants = make_mutants(ast.parse("def f():\n    return 1, 1"), "a.py")
    assert [m.change for m in mutants] == ["1 -> 2", "1 -> 2 #2"]
    assert len({m.key for m in mutants}) == 2


def test_a_mutant_knows_its_place():
    source = "X = 1\nclass A:\n    y: int = 2\n    def f(self, z=3):\n        return (4 +\n    z)"
    mutants = {m.change: m for m in make_mutants(ast.parse(source), "a.py")}
    places = {change: (m.function, m.at_import, m.names) for change, m in mutants.items()}
    assert places["1 -> 2"] == ("", True, {"X"})
    assert places["2 -> 3"] == ("A", True, {"y", "A"})
    assert places["3 -> 4"] == ("A.f", True, {"f"})
    assert places["4 -> 5"] == ("A.f", False, frozenset())
    assert mutants["4 + z -> 4 - z"].lines == (5, 6)


def test_only_the_head_of_a_statement_with_a_body_is_its_place():
    source = "if (a and\n    b):\n    c()"
    by_change = {m.change: m for m in make_mutants(ast.parse(source), "a.py")}
    assert by_change["if a and b: -> if True:"].lines == (1, 2)
    assert by_change["c() -> pass"].statement == "c()"


def test_applying_a_mutant_changes_the_tree_and_making_it_does_not():
    tree = ast.parse("def f(a):\n    if a > 1:\n        return a - 1\n    return 0")
    before = ast.unparse(tree)
    mutants = {m.change: m for m in make_mutants(tree, "a.py")}
    assert ast.unparse(tree) == before
    mutants["a - 1 -> a + 1"].apply()
    assert ast.unparse(tree) == before.replace("a - 1", "a + 1")
