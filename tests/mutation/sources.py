"""Target modules in memory: their code, instrumented or mutated, without a file that changes.

Owns the import hook and the exchange of code objects in a process that has imported everything.
Refuses to know tests. Read `mutants` for what is changed.
"""

from __future__ import annotations

import ast
import gc
import importlib.util
import sys
from collections.abc import Callable, Iterator
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType

ROOT = Path(__file__).resolve().parents[2]


def module_name(file: str) -> str:
    """Dotted name of a file of the repository."""
    name = file.removesuffix(".py").replace("/", ".")
    return name.removesuffix(".__init__")


def compile_tree(tree: ast.Module, file: str) -> CodeType:
    """The module's code, as the import of the unchanged file would make it."""
    return compile(tree, str(ROOT / file), "exec", dont_inherit=True)


class _Loader(SourceFileLoader):
    """Runs the code that it is handed."""

    def __init__(self, name: str, path: str, make: Callable[[], CodeType]) -> None:
        super().__init__(name, path)
        self.make = make

    def get_code(self, fullname: str) -> CodeType:
        return self.make()


class Hook(MetaPathFinder):
    """Imports the named modules with code made here; others as ever."""

    def __init__(self, makers: dict[str, Callable[[], CodeType]]) -> None:
        self.makers = {module_name(file): (file, make) for file, make in makers.items()}

    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:
        if fullname not in self.makers:
            return None
        file, make = self.makers[fullname]
        place = str(ROOT / file)
        folder = [str(Path(place).parent)] if file.endswith("__init__.py") else None
        return importlib.util.spec_from_file_location(
            fullname,
            place,
            loader=_Loader(fullname, place, make),
            submodule_search_locations=folder,
        )

    def install(self) -> None:
        sys.meta_path.insert(0, self)


def nested(code: CodeType) -> Iterator[CodeType]:
    """A code object and those inside it, in the order of the source."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from nested(constant)


def live_functions() -> dict[tuple[str, str, int], list[FunctionType]]:
    """Functions of this process by file, qualified name and first line; call before `gc.freeze`."""
    found: dict[tuple[str, str, int], list[FunctionType]] = {}
    for thing in gc.get_objects():
        if type(thing) is FunctionType:
            found.setdefault(_place(thing.__code__), []).append(thing)
    return found


def _place(code: CodeType) -> tuple[str, str, int]:
    return code.co_filename, code.co_qualname, code.co_firstlineno


def _own(code: CodeType) -> tuple[object, ...]:
    """What a code object does by itself, without the functions inside it and without lines."""
    constants = ["code" if isinstance(c, CodeType) else (type(c), repr(c)) for c in code.co_consts]
    return code.co_code, code.co_names, constants


def swap(
    before: CodeType, after: CodeType, live: dict[tuple[str, str, int], list[FunctionType]]
) -> bool:
    """Give the functions of this process the code of `after`.

    Returns False, with nothing changed, where that cannot be done: code outside functions differs,
    or a function closes over other variables than before.
    """
    old, new = list(nested(before)), list(nested(after))
    changed: list[tuple[FunctionType, CodeType]] = []
    if len(old) != len(new) or len({_place(c) for c in old}) < len(old):
        old, new = _without_inner(old), _without_inner(new)
        if len(old) != len(new) or len({_place(c) for c in old}) < len(old):
            return False
    for was, now in zip(old, new, strict=True):
        if was.co_qualname != now.co_qualname:
            return False
        if not was.co_flags & 0x2:  # CO_NEWLOCALS: neither a module nor a class body.
            if _own(was) != _own(now):
                return False
        elif was != now:
            if was.co_freevars != now.co_freevars:
                return False
            changed += [(function, now) for function in live.get(_place(was), [])]
    for function, code in changed:
        function.__code__ = code
    return True


def _without_inner(codes: list[CodeType]) -> list[CodeType]:
    """Without functions made inside functions: those come with the one around them."""
    return [code for code in codes if "<locals>" not in code.co_qualname]
