"""The texts of a package's errors and warnings, read from its source without running it."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from math import prod
from pathlib import Path
from typing import NamedTuple

HOLE = "\0"
"""Stands in a text for what is known only when it is raised."""

_MOST = 24
"""So many texts of one site are told apart; beyond that a part that has several is a hole."""

_DEEP = 3
"""So many calls within calls are followed."""

_FEW = 4
"""What differs between the texts of one site is told apart if it has so many words, else it is a hole."""


class Site(NamedTuple):
    """One ``raise``, warning or reason: its file, what is raised or called, and each text that it may have."""

    file: str
    kind: str
    texts: tuple[str, ...]


@dataclass
class Module:
    """One file: its constants and functions by name, and where its other names come from."""

    file: str
    tree: ast.Module
    constants: dict[str, ast.expr] = field(default_factory=dict)
    functions: dict[str, ast.FunctionDef] = field(default_factory=dict)
    imported: dict[str, tuple[str, str]] = field(default_factory=dict)

    def __post_init__(self):
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                self.imported.update({alias.asname or alias.name: (node.module, alias.name) for alias in node.names})
            elif isinstance(node, ast.FunctionDef):
                self.functions.setdefault(node.name, node)
        for node in self.tree.body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                self.constants.update({t.id: node.value for t in targets if isinstance(t, ast.Name)})


class Scope(NamedTuple):
    """What names mean at a place: what a function was called with or assigns, each with its own scope."""

    module: Module
    values: dict[str, list[tuple[ast.expr, "Scope"]]]
    depth: int


class Package:
    """All modules of a package.

    Args:
        root: its folder.
        methods: methods of other objects that make an exception, and the module that each is in.
        reasons: functions that warn or raise with their second argument as a part of the message.
        apart: functions whose texts are holes in those of others.
    """

    def __init__(self, root: Path, methods: dict[str, str], reasons: frozenset[str], apart: frozenset[str]):
        self._methods, self._reasons, self._apart = methods, reasons, apart
        self.modules = {}
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root.parent).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            self.modules[name] = Module(path.relative_to(root).as_posix(), ast.parse(path.read_text(encoding="utf-8")))

    def sites(self) -> Iterator[Site]:
        """Every ``raise`` of something, every warning and every reason for one."""
        for module in self.modules.values():
            for node, function in _with_functions(module.tree):
                if isinstance(node, ast.Raise) and node.exc is not None:
                    yield Site(module.file, *self._raised(node.exc, _scope(module, function)))
                elif isinstance(node, ast.Call):
                    position = 0 if _name(node.func) == "warn" else 1 if _name(node.func) in self._reasons else None
                    if position is not None:
                        texts = self._texts(node.args[position], _scope(module, function))
                        yield Site(module.file, "warning or reason", tuple(texts))

    def texts_of(self, module: str, name: str) -> list[str]:
        """The texts of a module's constant, of a dictionary's values, or that a function returns."""
        held = self.modules[module]
        if name in held.functions:
            return self._returned(held.functions[name], _scope(held, held.functions[name]))
        value = held.constants[name]
        parts = value.values if isinstance(value, ast.Dict) else [value]
        return [text for part in parts for text in self._texts(part, Scope(held, {}, 0))]

    def constants(self) -> Iterator[str]:
        """Every text that stands in the code; docstrings do not."""
        for module in self.modules.values():
            for node in ast.walk(module.tree):
                for child in ast.iter_child_nodes(node):
                    if (
                        isinstance(child, ast.Constant)
                        and isinstance(child.value, str)
                        and not isinstance(node, ast.Expr)
                    ):
                        yield child.value

    def _raised(self, node, scope):
        """The name of an exception and its texts, also where a function makes it."""
        if not isinstance(node, ast.Call):
            return ast.unparse(node), ()
        made = self._called(node, scope)
        if made is None:
            return _name(node.func), tuple(self._texts(node.args[0], scope)) if node.args else ()
        function, inner = made
        found = [self._raised(value, inner) for value in _returns(function)]
        return found[0][0], tuple(dict.fromkeys(text for _, texts in found for text in texts))

    def _texts(self, node, scope):
        """Each text that an expression may be."""
        if isinstance(node, ast.Constant):
            return [node.value if isinstance(node.value, str) else HOLE]
        if isinstance(node, ast.JoinedStr):
            return _joined([self._texts(value, scope) for value in node.values])
        if isinstance(node, ast.FormattedValue):
            return self._texts(node.value, scope) if node.conversion == -1 else [HOLE]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return _joined([self._texts(node.left, scope), self._texts(node.right, scope)])
        if isinstance(node, ast.IfExp):
            return _if_long([*self._texts(node.body, scope), *self._texts(node.orelse, scope)])
        if isinstance(node, ast.Name):
            return self._named(node.id, scope)
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            held, module = self._constant(node.value.id, scope.module)
            if isinstance(held, ast.Dict):
                return [text for value in held.values for text in self._texts(value, Scope(module, {}, scope.depth))]
        made = self._called(node, scope) if isinstance(node, ast.Call) else None
        return self._returned(*made) if made is not None else [HOLE]

    def _returned(self, function, scope):
        return [text for value in _returns(function) for text in self._texts(value, scope)] or [HOLE]

    def _named(self, name, scope):
        values = scope.values.get(name, [])
        if any(at is scope and _uses(value, name) for value, at in values):
            return [HOLE]  # a text that is made of itself
        if values:
            return _if_long([text for value, at in values for text in self._texts(value, at)])
        constant, module = self._constant(name, scope.module)
        return self._texts(constant, Scope(module, {}, scope.depth)) if constant is not None else [HOLE]

    def _called(self, call, scope):
        """The function of the package that is called, and what names mean in it; None for anything else."""
        name, method = _name(call.func), isinstance(call.func, ast.Attribute)
        module = self.modules[self._methods[name]] if method and name in self._methods else scope.module
        if (
            scope.depth == _DEEP
            or name in self._apart
            or (method and module is scope.module and ast.unparse(call.func) != f"self.{name}")
        ):
            return None
        name, module = self._defining(name, module)
        if module is None or name not in module.functions:
            return None
        function = module.functions[name]
        names = [argument.arg for argument in function.args.args if argument.arg != "self"]
        given = dict(zip(names, call.args, strict=False)) | {k.arg: k.value for k in call.keywords if k.arg}
        return function, _scope(
            module, function, {name: (value, scope) for name, value in given.items()}, scope.depth + 1
        )

    def _constant(self, name, module):
        name, module = self._defining(name, module)
        return (None, None) if module is None else (module.constants.get(name), module)

    def _defining(self, name, module):
        """What a name is called in the module that defines it; None for that of another package."""
        while module is not None and name in module.imported:
            source, name = module.imported[name]
            module = self.modules.get(source)
        return name, module


def _scope(module, function, given=None, depth=0):
    scope = Scope(module, {}, depth)
    for node in ast.walk(function) if function is not None else ():
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if isinstance(node, ast.Assign | ast.NamedExpr):
            for target in targets:
                if isinstance(target, ast.Name):
                    scope.values.setdefault(target.id, []).append((node.value, scope))
    for argument in function.args.args if function is not None else ():
        scope.values.setdefault(argument.arg, []).append((ast.Constant(None), scope))  # known when it is called
    scope.values.update({name: [value] for name, value in (given or {}).items()})
    return scope


def _with_functions(tree):
    """Each node with the innermost function that it is in."""
    stack = [(tree, None)]
    while stack:
        node, function = stack.pop()
        yield node, function
        inner = node if isinstance(node, ast.FunctionDef) else function
        stack.extend((child, inner) for child in ast.iter_child_nodes(node))


def _returns(function):
    return [node.value for node in ast.walk(function) if isinstance(node, ast.Return) and node.value is not None]


def _uses(expression, name):
    return any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(expression))


def _name(function):
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _if_long(texts):
    return (
        texts
        if len(texts) == 1 or any(len(part.split()) >= _FEW for text in texts for part in text.split(HOLE))
        else [HOLE]
    )


def _joined(parts):
    while prod(map(len, parts)) > _MOST:
        parts[max(range(len(parts)), key=lambda i: len(parts[i]))] = [HOLE]
    return ["".join(ways) for ways in product(*parts)]
