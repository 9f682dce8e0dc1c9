"""What a docstring must say: the shapes of arrays and tensors, and what a public function raises."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.architecture.imports import SOURCE, module_name, top_package

ARRAYS = re.compile(r"\b(Tensor|ndarray|NDArray|Array|Shared)\b")  # the last two are ours
SHAPE = re.compile(r"\[[A-Za-z0-9_ ,.+*/×·…()-]*\]|[Ss]calar|any shape")
BUILT_IN = {"ValueError", "RuntimeError", "OSError", "KeyError"}
SAY_WHAT_THEY_RAISE = {"training", "serving", "engines", "wire"}


@dataclass(frozen=True)
class Function:
    module: str
    name: str  # in the module, with its class
    node: ast.FunctionDef | ast.AsyncFunctionDef
    helpers: dict[str, ast.FunctionDef | ast.AsyncFunctionDef]  # of the same module or class, by bare name
    imported: dict[str, str] = field(default_factory=dict)  # what a name of the module stands for, as `module.name`

    @property
    def docstring(self) -> str:
        return " ".join((ast.get_docstring(self.node) or "").split())

    @property
    def is_public(self) -> bool:
        return not any(part.startswith("_") for part in f"{self.module}.{self.name}".split("."))

    @property
    def has_arrays(self) -> bool:
        arguments = self.node.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        noted = [each.annotation for each in named if each and each.annotation] + [self.node.returns]
        return any(note and ARRAYS.search(ast.unparse(note)) for note in noted)


def functions(packages: set[str] | None = None) -> Iterator[Function]:
    for path in sorted(SOURCE.rglob("*.py")):
        if packages is None or top_package(module_name(path)) in packages:
            yield from _functions_of(path)


def _functions_of(path: Path) -> Iterator[Function]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    module = module_name(path).removeprefix("tunery.")
    scopes: list[tuple[str, ast.Module | ast.ClassDef]] = [("", tree)]
    scopes += [(node.name, node) for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    helpers = {
        node.name: node
        for _, scope in scopes
        for node in scope.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    imported = {
        alias.asname or alias.name: f"{node.module}.{alias.name}".removeprefix("tunery.")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    for name, scope in scopes:
        for node in scope.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield Function(module, f"{name}.{node.name}".removeprefix("."), node, helpers, imported)


def raised(function: Function) -> set[str]:
    """The names of what it raises itself or by a private helper of its module; a re-raise is none."""
    found: set[str] = set()
    seen: set[str] = set()
    ahead: list[ast.AST] = [function.node]
    while ahead:
        for node in ast.walk(ahead.pop()):
            if isinstance(node, ast.Raise) and node.exc is not None:
                raising = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
                found.add(ast.unparse(raising).rpartition(".")[2])
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func).rpartition(".")[2]
                if name.startswith("_") and name in function.helpers and name not in seen:
                    seen.add(name)
                    ahead.append(function.helpers[name])
    return {name for name in found if name[:1].isupper()}


def own_errors() -> dict[str, set[str]]:
    """Each exception that is declared in the source, with itself and what it stands on: who catches it."""
    classes = {
        node.name: {ast.unparse(base).rpartition(".")[2] for base in node.bases}
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ClassDef)
    }

    def above(name: str) -> set[str]:
        return {name}.union(*(above(base) for base in classes.get(name, ()) if base != name))

    return {name: found for name in classes if "Exception" in (found := above(name)) or found & BUILT_IN}


def called(function: Function) -> Iterator[tuple[str, set[str]]]:
    """What it calls by an imported name, directly or in its module, as `module.name`; and what it catches around it."""
    ahead: list[tuple[ast.AST, set[str]]] = [(child, set()) for child in function.node.body]
    while ahead:
        node, caught = ahead.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue  # it may be called by somebody else
        if isinstance(node, ast.Call):
            first, _, rest = ast.unparse(node.func).partition(".")
            yield ".".join(filter(None, [function.imported.get(first, f"{function.module}.{first}"), rest])), caught
        inside = caught
        if isinstance(node, ast.Try):
            types = [ast.unparse(handler.type) if handler.type else "Exception" for handler in node.handlers]
            inside = caught.union(re.findall(r"\w+", " ".join(types)))
            ahead += [(child, caught) for child in (*node.handlers, *node.orelse, *node.finalbody)]
        children = node.body if isinstance(node, ast.Try) else ast.iter_child_nodes(node)
        ahead += [(child, inside) for child in children]


def test_the_search_sees_arrays_and_what_is_raised(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(
        "def f(x: torch.Tensor | None) -> int:\n    _g()\n"
        "def _g():\n    raise ValueError('x')\n"
        "def h(x: int, *, y: np.ndarray) -> int: ...\n"
        "def i(x: list[int]) -> int: ...\n"
    )
    tree = ast.parse((tmp_path / "x.py").read_text())
    made = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    found = {name: Function("x", name, node, dict(made)) for name, node in made.items()}
    assert [name for name, each in found.items() if each.has_arrays] == ["f", "h"]
    assert [name for name, each in found.items() if raised(each)] == ["f", "_g"]


def test_functions_of_arrays_say_their_shapes() -> None:
    silent = {each.name for each in functions() if each.has_arrays and not SHAPE.search(each.docstring)}
    assert not silent, sorted(silent)


def test_public_functions_say_what_they_raise() -> None:
    silent = {
        each.name
        for each in functions(SAY_WHAT_THEY_RAISE)
        if each.is_public
        and (names := raised(each))
        and not all(re.search(rf"\b{name}\b", each.docstring) for name in names)
    }
    assert not silent, sorted(silent)


def test_public_functions_say_which_errors_of_ours_they_pass_on() -> None:
    """Those of the functions that they call by name: where these are declared, without what they call in turn."""
    errors, raises = own_errors(), {f"{each.module}.{each.name}": raised(each) for each in functions()}
    assert {"SettingsError", "UnsupportedAdapter", "EngineLost", "InvalidRequest"} <= set(errors)
    silent = {
        f"{each.module}.{each.name}: {error} of {name}"
        for each in functions(SAY_WHAT_THEY_RAISE)
        if each.is_public
        for name, caught in called(each)
        for error in raises.get(name, set()) & set(errors)
        if not caught & errors[error] and not re.search(rf"\b{error}\b", each.docstring)
    }
    assert not silent, sorted(silent)
