"""Source to mutants: one small change each, with a name that survives shifted lines.

Owns the operators (`OPERATORS` is the list that the documentation prints) and what is never touched.
Refuses to know tests and processes. Read `forks` next.
"""

from __future__ import annotations

import ast
import copy
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

OPERATORS = (
    (
        "comparison",
        "`<` and `<=`, `>` and `>=`, `==` and `!=`, `is`, `in` and their negations swap",
    ),
    ("arithmetic", "`+` `-`, `*` `/`, `//` `%`, `&` `|` swap, also in `+=`; `**` becomes `*`"),
    ("boolean", "`and` and `or` swap; one operand is dropped; `not` is dropped"),
    ("constant", "a number grows by 1, `True` and `False` swap, a minus sign is dropped"),
    (
        "condition",
        "the test of `if`, `while` and `a if b else c` is True or False; a filter is dropped",
    ),
    ("call", "`.detach()` and `.clone()` are dropped; names of `SWAPPED_CALLS` swap"),
    ("keyword", "an argument of `DROPPED_KEYWORDS` is dropped"),
    ("slice", "a bound that is no number grows by 1"),
    ("deletion", "a call, `raise`, `+=` or assignment to an attribute or item is deleted"),
    ("jump", "`continue` and `break` swap"),
    ("context", "`with x:` without `as` is entered without x"),
)
"""Name and meaning of each operator."""

NEVER = (
    "annotations, decorators, imports, asserts, strings, log calls, the texts of errors, protocols, "
    "`__all__`, `__slots__`, `TYPE_CHECKING`, the type of a `cast` and `zip(strict=)`"
)
"""What no operator touches."""

_COMPARE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.Gt: ast.GtE,
    ast.Eq: ast.NotEq,
    ast.Is: ast.IsNot,
    ast.In: ast.NotIn,
}
_COMPARE |= {new: old for old, new in _COMPARE.items()}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Mult: ast.Div,
    ast.FloorDiv: ast.Mod,
    ast.BitAnd: ast.BitOr,
}
_ARITHMETIC |= {new: old for old, new in _ARITHMETIC.items()}
_ARITHMETIC[ast.Pow] = ast.Mult

SWAPPED_CALLS = {
    "min": "max",
    "minimum": "maximum",
    "amin": "amax",
    "any": "all",
    "sum": "mean",
    "ones": "zeros",
    "ones_like": "zeros_like",
    "floor": "ceil",
    "log": "exp",
    "log1p": "expm1",
    "sin": "cos",
}
SWAPPED_CALLS |= {new: old for old, new in SWAPPED_CALLS.items()}
DROPPED_KEYWORDS = frozenset(
    ("keepdim", "dtype", "correction", "min", "max", "reverse", "key", "generator", "default")
)
_DROPPED_METHODS = frozenset({"detach", "clone"})
_LOG_METHODS = frozenset(("debug", "info", "warning", "error", "exception", "critical", "log"))
_UNTOUCHED = (ast.Import, ast.ImportFrom, ast.Assert, ast.JoinedStr, ast.Global, ast.Nonlocal)


@dataclass(slots=True, kw_only=True)
class Mutant:
    """One change of one file."""

    file: str
    """Relative to the root of the repository, with slashes."""
    function: str
    """Qualified name of the function or class; empty at module level."""
    statement: str
    """Normalised source of the statement; its head alone where it has a body."""
    change: str
    """`old -> new`, with `#n` from the second such change of equal statements on."""
    operator: str
    lines: tuple[int, int]
    """First and last line of the changed node."""
    at_import: bool
    """Whether the change is outside every function, in code that runs when the module is imported."""
    names: frozenset[str] = frozenset()
    """Names that the statement binds, where it is outside every function."""
    body: tuple[int, int] | None = None
    """Lines of the function whose default is changed."""
    apply: Callable[[], None] = field(repr=False, default=lambda: None)
    """Alters the tree that `make_mutants` was given; a forked child calls it once."""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What names the mutant, whatever line it is on."""
        return self.file, self.function, self.statement, self.change

    @property
    def digest(self) -> str:
        """SHA-256 of `key`."""
        return hashlib.sha256("\0".join(self.key).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _Place:
    """A node and what holds it."""

    holder: ast.AST
    name: str
    index: int | None
    statement: ast.stmt
    function: str
    in_function: bool

    @property
    def node(self) -> ast.AST:
        value = getattr(self.holder, self.name)
        return value if self.index is None else value[self.index]

    def put(self, node: ast.AST) -> None:
        if self.index is None:
            setattr(self.holder, self.name, node)
        else:
            getattr(self.holder, self.name)[self.index] = node


def make_mutants(tree: ast.Module, file: str) -> list[Mutant]:
    """Every mutant of a module, in the order of its source; `tree` is left as it was."""
    found: list[Mutant] = []
    if not tree.body:
        return found
    seen: Counter[tuple[str, ...]] = Counter()
    for place in _places(tree, tree.body[0], "", in_function=False):
        node = place.node
        if _is_made_by_condition(place):
            continue
        for operator, new in [*_new_nodes(node, place), *_dropped_filters(node)]:
            new = ast.fix_missing_locations(ast.copy_location(new, node))
            statement = _head(place.statement)
            change = f"{_head(node)} -> {_head(new)}"
            seen[place.function, statement, change] += 1
            count = seen[place.function, statement, change]
            found.append(
                Mutant(
                    file=file,
                    function=place.function,
                    statement=statement,
                    change=change if count == 1 else f"{change} #{count}",
                    operator=operator,
                    lines=_lines(node),
                    at_import=not place.in_function,
                    names=frozenset() if place.in_function else _bound(place),
                    body=_body(place),
                    apply=lambda place=place, new=new: place.put(new),
                )
            )
    return found


def _lines(node: ast.AST) -> tuple[int, int]:
    """First and last line; of a statement with a body the lines of its head."""
    assert isinstance(node, ast.stmt | ast.expr | ast.comprehension | ast.arg)
    if isinstance(node, ast.comprehension):
        return node.target.lineno, max(n.end_lineno or 0 for n in [node.iter, *node.ifs])
    if isinstance(node, ast.If | ast.While):
        return node.lineno, node.test.end_lineno or node.lineno
    if isinstance(node, ast.With):
        return node.lineno, node.items[-1].context_expr.end_lineno or node.lineno
    return node.lineno, node.end_lineno or node.lineno


def _bound(place: _Place) -> frozenset[str]:
    """Names through which code elsewhere sees a statement outside every function."""
    statement = place.statement
    targets = (
        statement.targets
        if isinstance(statement, ast.Assign)
        else [statement.target]
        if isinstance(statement, ast.AnnAssign | ast.AugAssign)
        else []
    )
    names = {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
        names.add(statement.name)
    if place.function:
        names.add(place.function.rsplit(".", 1)[-1])
    return frozenset(names)


def _body(place: _Place) -> tuple[int, int] | None:
    """Lines of a function, for a change of its defaults."""
    node = place.statement
    if place.in_function or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    return node.body[0].lineno, node.end_lineno or node.lineno


def _head(node: ast.AST) -> str:
    """Normalised source; of a statement with a body its head alone."""
    if getattr(node, "body", None) and isinstance(node, ast.stmt):
        node = copy.copy(node)
        node.body = [ast.Expr(ast.Constant(...))]
        for other in ("orelse", "finalbody", "handlers", "decorator_list"):
            if hasattr(node, other):
                setattr(node, other, [])
        if isinstance(node, ast.Try):
            return "try:"
    if isinstance(node, ast.comprehension):
        return ast.unparse(ast.ListComp(ast.Name("_"), [node]))[3:-1]
    text = " ".join(ast.unparse(node).split())
    return text.removesuffix(" ...")


# Walk


def _places(
    holder: ast.AST, statement: ast.stmt, function: str, *, in_function: bool
) -> Iterator[_Place]:
    """Every node under `holder` that may change, in the order of the source."""
    for name, value in ast.iter_fields(holder):
        if name in ("annotation", "returns", "decorator_list", "type_params", "type_comment"):
            continue
        for index, node in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(node, ast.AST) or _is_untouched(node, holder):
                continue
            yield from _places_of(
                node,
                _Place(
                    holder=holder,
                    name=name,
                    index=index if isinstance(value, list) else None,
                    statement=node if isinstance(node, ast.stmt) else statement,
                    function=function,
                    # Defaults are evaluated when the function is defined.
                    in_function=in_function,
                ),
            )


def _places_of(node: ast.AST, place: _Place) -> Iterator[_Place]:
    if isinstance(node, ast.stmt | ast.expr | ast.comprehension):
        yield place
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        inner = f"{place.function}.{node.name}".lstrip(".")
        yield from _places(node.args, node, inner, in_function=place.in_function)
        body = ast.Module(node.body, [])
        # The list is the function's own: a change of it changes the function.
        yield from _places(body, node, inner, in_function=True)
    elif isinstance(node, ast.ClassDef):
        inner = f"{place.function}.{node.name}".lstrip(".")
        yield from _places(ast.Module(node.body, []), node, inner, in_function=place.in_function)
    elif isinstance(node, ast.Raise):
        return
    else:
        in_function = place.in_function or isinstance(node, ast.Lambda)
        yield from _places(node, place.statement, place.function, in_function=in_function)


def _is_untouched(node: ast.AST, holder: ast.AST) -> bool:
    if isinstance(node, _UNTOUCHED) or _is_log_call(node):
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True  # A docstring or a body of `...`.
    if isinstance(node, ast.ClassDef):
        return any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases)
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    if isinstance(node, ast.Assign):
        return any(
            isinstance(t, ast.Name) and t.id in ("__all__", "__slots__") for t in node.targets
        )
    if isinstance(holder, ast.Call) and isinstance(holder.func, ast.Name):
        if holder.func.id == "cast":
            return node is holder.args[0]
        return holder.func.id == "zip" and isinstance(node, ast.keyword)
    return False


def _is_log_call(node: ast.AST) -> bool:
    call = node.value if isinstance(node, ast.Expr) else None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
        return False
    owner = call.func.value
    return (
        call.func.attr in _LOG_METHODS
        and isinstance(owner, ast.Name)
        and owner.id.lower().strip("_") in ("log", "logger", "logging")
    )


def _is_made_by_condition(place: _Place) -> bool:
    """Whether True and False for the condition around a node say all that its negation would.

    A condition that is one comparison or one `not`, and the `raise` that is all it guards.
    """
    holder, node = place.holder, place.node
    if isinstance(holder, ast.If | ast.IfExp) and place.name == "test":
        single = isinstance(node, ast.Compare) and isinstance(
            node.ops[0], ast.Eq | ast.NotEq | ast.Is | ast.IsNot | ast.In | ast.NotIn
        )
        return single or (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not))
    if isinstance(holder, ast.If) and place.name == "body":
        return isinstance(node, ast.Raise) and len(holder.body) == 1
    return False


# Operators

_New = Iterator[tuple[str, ast.AST]]


def _with(node: ast.AST, **changed: object) -> ast.AST:
    new = copy.copy(node)
    for name, value in changed.items():
        setattr(new, name, value)
    return new


def _new_nodes(node: ast.AST, place: _Place) -> _New:
    if isinstance(node, ast.stmt):
        yield from _new_statements(node)
    elif isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            if type(op) in _COMPARE:
                ops = [*node.ops[:i], _COMPARE[type(op)](), *node.ops[i + 1 :]]
                yield "comparison", _with(node, ops=ops)
    elif isinstance(node, ast.BinOp):
        if type(node.op) in _ARITHMETIC and not _is_text(node.left) and not _is_text(node.right):
            yield "arithmetic", _with(node, op=_ARITHMETIC[type(node.op)]())
    elif isinstance(node, ast.BoolOp):
        yield "boolean", _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
        for i in range(len(node.values)):
            rest = [*node.values[:i], *node.values[i + 1 :]]
            yield "boolean", rest[0] if len(rest) == 1 else _with(node, values=rest)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "boolean", node.operand
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield "constant", node.operand
    elif isinstance(node, ast.IfExp):
        for value in (True, False):
            yield "condition", _with(node, test=ast.Constant(value))
    elif isinstance(node, ast.Constant):
        yield from _new_constants(node)
    elif isinstance(node, ast.Call):
        yield from _new_calls(node)
    elif isinstance(node, ast.Slice):
        for name in ("lower", "upper"):
            bound = getattr(node, name)
            if bound is not None and not _is_number(bound):
                yield "slice", _with(node, **{name: ast.BinOp(bound, ast.Add(), ast.Constant(1))})


def _dropped_filters(node: ast.AST) -> _New:
    if isinstance(node, ast.comprehension):
        for i in range(len(node.ifs)):
            yield "condition", _with(node, ifs=[*node.ifs[:i], *node.ifs[i + 1 :]])


def _new_constants(node: ast.Constant) -> _New:
    if isinstance(node.value, bool):
        yield "constant", ast.Constant(not node.value)
    elif isinstance(node.value, int | float):
        yield "constant", ast.Constant(node.value + 1)


def _new_calls(node: ast.Call) -> _New:
    func = node.func
    name = func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")
    if isinstance(func, ast.Attribute) and name in _DROPPED_METHODS and not node.args:
        yield "call", func.value
    if name in SWAPPED_CALLS:
        changed = {"attr" if isinstance(func, ast.Attribute) else "id": SWAPPED_CALLS[name]}
        yield "call", _with(node, func=_with(func, **changed))
    for i, keyword in enumerate(node.keywords):
        if keyword.arg in DROPPED_KEYWORDS:
            rest = [*node.keywords[:i], *node.keywords[i + 1 :]]
            yield "keyword", _with(node, keywords=rest)


def _new_statements(node: ast.stmt) -> _New:
    if isinstance(node, ast.If):
        for value in (True, False):
            yield "condition", _with(node, test=ast.Constant(value))
    elif isinstance(node, ast.While):
        if not isinstance(node.test, ast.Constant):
            yield "condition", _with(node, test=ast.Constant(False))
    elif isinstance(node, ast.With):
        for i, item in enumerate(node.items):
            if item.optional_vars is None:
                rest = [*node.items[:i], *node.items[i + 1 :]]
                bare = ast.If(ast.Constant(True), node.body, [])
                yield "context", _with(node, items=rest) if rest else bare
    elif isinstance(node, ast.Continue | ast.Break):
        yield "jump", ast.Break() if isinstance(node, ast.Continue) else ast.Continue()
    elif isinstance(node, ast.AugAssign):
        yield "deletion", ast.Pass()
        if type(node.op) in _ARITHMETIC:
            yield "arithmetic", _with(node, op=_ARITHMETIC[type(node.op)]())
    elif _is_deletable(node):
        yield "deletion", ast.Pass()


def _is_deletable(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assign):
        return all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets)
    return isinstance(node, ast.Raise) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    )


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _is_number(node: ast.expr) -> bool:
    if isinstance(node, ast.UnaryOp):
        node = node.operand
    return isinstance(node, ast.Constant)
