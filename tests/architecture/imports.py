"""Reads which modules a source file imports, without running it. Imports inside functions and behind
TYPE_CHECKING count as well: both are dependencies for whoever reads or moves the code."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "tunery"


@dataclass(frozen=True)
class Import:
    importer: str  # dotted name of the importing module
    target: str  # dotted name as far as the statement tells it
    line: int


def module_name(path: Path) -> str:
    parts = ("tunery", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def top_package(module: str) -> str:
    """`store` for `tunery.store.jobs`; the empty text for `tunery` itself."""
    return module.split(".")[1] if "." in module else ""


def imports_of(path: Path) -> Iterator[Import]:
    importer = module_name(path)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(importer, alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(importer, path, node)
            for alias in node.names:
                yield Import(importer, f"{base}.{alias.name}", node.lineno)


def _absolute(importer: str, path: Path, node: ast.ImportFrom) -> str:
    if node.level == 0:
        return node.module or ""
    package = importer.split(".") if path.name == "__init__.py" else importer.split(".")[:-1]
    return ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])


def all_imports() -> list[Import]:
    return [found for path in sorted(SOURCE.rglob("*.py")) for found in imports_of(path)]


def module_graph() -> dict[str, set[str]]:
    """Each of our modules with those of ours that it imports, itself left out."""
    graph: dict[str, set[str]] = {module_name(path): set() for path in sorted(SOURCE.rglob("*.py"))}
    for found in all_imports():
        target = found.target
        while target and target not in graph:  # `from tunery.store.jobs import add_job` names something in a module
            target = target.rpartition(".")[0]
        if target and target != found.importer:
            graph[found.importer].add(target)
    return graph


def sibling_graph(graph: dict[str, set[str]], package: str) -> dict[str, set[str]]:
    """The modules and folders directly in `package`; an arrow where anything inside one imports anything inside
    another."""
    depth = package.count(".") + 1
    inside = {module: module.split(".")[depth] for module in graph if module.startswith(package + ".")}
    siblings: dict[str, set[str]] = {name: set() for name in inside.values()}
    for importer, targets in graph.items():
        if importer in inside:
            siblings[inside[importer]] |= {inside[target] for target in targets if target in inside}
    return {name: targets - {name} for name, targets in siblings.items()}


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The groups whose members all reach each other (strongly connected, larger than one), sorted."""
    reach = {node: _reachable(graph, node) for node in graph}
    groups = {
        tuple(sorted({node, *(other for other in reach[node] if node in reach[other])}))
        for node in graph
        if node in reach[node]
    }
    return sorted(map(list, groups))


def _reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """What a walk of one arrow or more reaches; `start` too if it lies on a cycle."""
    seen: set[str] = set()
    ahead = list(graph[start])
    while ahead:
        node = ahead.pop()
        if node not in seen:
            seen.add(node)
            ahead.extend(graph[node])
    return seen
