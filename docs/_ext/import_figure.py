"""The rooms of a package and who imports whom, drawn from the source.

Each room stands below all that import it, so every arrow points down. A circle of imports ends the build.
"""

import ast
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from html import escape
from itertools import accumulate, pairwise
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "pyrometa"

FLOOR, ROOM, HIGH = 66, 92, 28
STYLE = (  # within the figure only: the page has other drawings
    ".imports rect{fill:#fff;stroke:#56748f}.imports text{font:13px sans-serif;fill:#22303c;text-anchor:middle}"
    ".imports path{fill:none;stroke:#8aa0b4;stroke-width:1.1}.imports .lazy{stroke-dasharray:4 3}"
)
HEAD = (
    '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 1L7 4L0 7Z" style="fill:#8aa0b4;stroke:none"/></marker></defs>'
)


def room_of(path, package):
    """The folder or module at the top of the package that a source belongs to; the package's name for its own."""
    first = path.relative_to(package).parts[0].removesuffix(".py")
    return package.name if first == "__init__" else first


def imports(path, package, name=PACKAGE.name):
    """Yields (line, dotted name, whether inside a function) of each import in a source of a package of this name."""
    parents = [name, *path.relative_to(package).parent.parts]

    def visit(node, lazy):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, lazy
        elif isinstance(node, ast.ImportFrom):
            base = parents[: len(parents) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{source}.{alias.name}", lazy
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("import_module", "importlib.import_module", "__import__")
            and isinstance(node.args[0], ast.Constant)
        ):
            yield node.lineno, str(node.args[0].value), lazy
        lazy = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, lazy)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), False)


def relation(package):
    """{room: {room that it imports: whether only inside functions}}."""
    paths = sorted(package.rglob("*.py"))
    found = {room_of(path, package): {} for path in paths}
    for path in paths:
        room = room_of(path, package)
        for _, target, lazy in imports(path, package, package.name):
            top, *rest = target.split(".")
            other = rest[0] if rest and rest[0] in found else top
            if top == package.name and other != room:
                found[room][other] = found[room].get(other, True) and lazy
    return found


def floors(uses):
    """The floor of each room: above all that it imports, and close below those that import it.

    Raises:
        ValueError: the imports go round in a circle.
    """
    try:
        order = list(TopologicalSorter(uses).static_order())
    except CycleError as error:
        raise ValueError(f"an arrow would point up, for imports go round: {' -> '.join(error.args[1])}") from None
    floor = {}
    for room in order:
        floor[room] = max((floor[other] + 1 for other in uses[room]), default=0)
    for room in reversed(order):
        above = [floor[other] for other in uses if room in uses[other]]
        floor[room] = min(above) - 1 if above else floor[room]
    return floor


def arrows(uses):
    """Each (room, room that it imports, whether only inside functions) that does not follow from other arrows."""
    reach = {}
    for room in TopologicalSorter(uses).static_order():
        reach[room] = set(uses[room]).union(*(reach[other] for other in uses[room]))
    for room, others in uses.items():
        for other, lazy in others.items():
            if not any(other in reach[between] for between in others):
                yield room, other, lazy


def placed(floor, drawn):
    """The x of each room, and of each (arrow, floor) where an arrow passes by a floor, few lines crossing."""
    chains = {}
    for room, other, _ in drawn:
        passed = [(room, other, level) for level in range(floor[room] - 1, floor[other], -1)]
        chains[room, other] = [room, *passed, other]
    level_of = {**floor, **{part: part[2] for chain in chains.values() for part in chain[1:-1]}}
    near = defaultdict(list)
    for chain in chains.values():
        for one, next_one in pairwise(chain):
            near[one].append(next_one)
            near[next_one].append(one)
    levels = [sorted((p for p in level_of if level_of[p] == i), key=str) for i in range(max(floor.values()) + 1)]
    x = {part: i * ROOM for level in levels for i, part in enumerate(level)}
    for _ in range(40):
        for level in (*levels, *reversed(levels)):
            wished = {p: sum(x[q] for q in near[p]) / len(near[p]) if near[p] else x[p] for p in level}
            level.sort(key=lambda p, wished=wished: wished[p])
            x.update(_apart(level, wished))
    left = min(x.values()) - ROOM / 2 - 8
    return {part: at - left for part, at in x.items()}, chains


def _apart(level, wished):
    """Places in the order of the level, as near to the wished ones as rooms and lines need."""
    gaps = [(ROOM + 14 if isinstance(part, str) else 26) for part in level]
    shifts = list(accumulate((one + other) / 2 for one, other in pairwise(gaps)))
    free = [wished[part] - shift for part, shift in zip(level, [0, *shifts], strict=True)]
    from_left = list(accumulate(free, max))
    from_right = list(accumulate(reversed(free), min))[::-1]
    places = zip(level, from_left, from_right, [0, *shifts], strict=True)
    return {part: (left + right) / 2 + shift for part, left, right, shift in places}


def svg(uses, titles):
    """The figure as an SVG element."""
    floor, drawn = floors(uses), list(arrows(uses))
    top = max(floor.values())
    x, chains = placed(floor, drawn)
    lines = [_line(chains[room, other], x, floor, lazy) for room, other, lazy in drawn]
    boxes = [_box(room, x[room], 24 + FLOOR * (top - floor[room]), titles[room]) for room in uses]
    size = f"0 0 {max(x.values()) + ROOM / 2 + 8:.0f} {48 + FLOOR * top}"
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" class="imports" viewBox="{size}" style="background:#fff">'
    about = f"<title>Who imports whom</title><style>{STYLE}</style>"
    return f"{opening}{about}{HEAD}{''.join(lines)}{''.join(boxes)}</svg>"


def _line(chain, x, floor, lazy):
    """A curve down a chain of a room, places between, and a room."""
    top = max(floor.values())
    points = []
    for part in chain:
        middle = 24 + FLOOR * (top - (floor[part] if isinstance(part, str) else part[2]))
        points += [(x[part], middle - HIGH / 2), (x[part], middle + HIGH / 2)]
    path = f"M{points[1][0]:.0f} {points[1][1]:.0f}"
    for (x0, y0), (x1, y1) in pairwise(points[1:-1]):
        bend = (y0 + y1) / 2
        path += f"C{x0:.0f} {bend:.0f} {x1:.0f} {bend:.0f} {x1:.0f} {y1:.0f}"
    dashed = ' class="lazy"' if lazy else ""
    return f'<path d="{path}" marker-end="url(#head)"{dashed}/>'


def _box(room, x, y, title):
    return (
        f'<g transform="translate({x:.0f} {y})"><title>{escape(title)}</title><rect x="{-ROOM / 2}" y="{-HIGH / 2}" '
        f'width="{ROOM}" height="{HIGH}" rx="5"/><text y="4.5">{room}</text></g>'
    )


def titles(package):
    """The first line of each room's docstring."""
    found = {}
    for room in relation(package):
        paths = (package / room / "__init__.py", package / f"{room}.py", package / "__init__.py")
        source = next(path for path in paths if path.exists())
        found[room] = (ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or room).splitlines()[0]
    return found
