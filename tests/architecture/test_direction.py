"""Dependencies point one way. The table is the one in docs/architecture.md."""

import pytest

from tests.architecture.imports import Import, all_imports, cycles, module_graph, sibling_graph, top_package

LEVELS = {
    "texts": 0,
    "domain": 0,
    "atomic": 0,
    "private": 0,
    "settings": 0,
    "logs": 0,
    "tracing": 1,
    "addresses": 1,
    "http_server": 1,
    "sandbox": 1,
    "wire": 1,
    "store": 1,
    "chat": 1,
    "models": 1,
    "kernels": 1,
    "datasets": 2,
    "training": 3,
    "serving": 3,
    "engines": 3,
    "metering": 4,
    "notify": 4,
    "jobs": 4,
    "export": 4,
    "bases": 4,
    "improve": 5,
    "api": 5,
    "dashboard": 6,
    "migrate": 6,
    "launch": 7,
    "cli": 8,
    "__main__": 9,
}
"""A package imports from lower levels and from itself."""

SIDEWAYS = {
    ("notify", "metering"),
    ("jobs", "metering"),
    ("jobs", "notify"),
    ("bases", "jobs"),
    ("bases", "metering"),
    ("domain", "texts"),
    ("private", "settings"),
    ("settings", "texts"),
    ("serving", "engines"),
}
"""The only arrows within one level: a job's end is paid for and told, a base is tried as jobs are trained and has its
price, an error has its sentence, mail is written in a language that there is, a home that cannot be used is a setting's
fault, and a vLLM in the engine's place is asked as any engine is."""

FORBIDDEN = {
    # what computes knows nothing of requests and rows, so that it runs alone in a child process or on a cluster
    **{
        name: {"fastapi", "starlette", "uvicorn", "sqlalchemy", "alembic"}
        for name in ("chat", "models", "kernels", "datasets")
    },
    "training": {"fastapi", "starlette", "uvicorn", "sqlalchemy", "alembic", "httpx"},
    "serving": {"sqlalchemy", "alembic"},
    "wire": {"fastapi", "sqlalchemy", "alembic", "torch", "transformers", "safetensors"},
    # what keeps books knows nothing of tensors, so that it starts in a second and fits in 100 MB
    **{
        name: {"torch", "transformers", "safetensors"}
        for name in (
            "texts",
            "domain",
            "settings",
            "store",
            "chat",
            "engines",
            "datasets",
            "sandbox",
            "metering",
            "notify",
            "jobs",
            "bases",
            "improve",
            "api",
            "dashboard",
            "cli",
        )
    },
}

PAGES_MAY_USE = {"dashboard", "domain", "settings", "atomic", "datasets", "improve", "texts"}
"""The dashboard is a client of the HTTP API, as `improve` is: what it cannot do through that, no user can either."""

IMPORTS = all_imports()


def _show(found: list[Import]) -> str:
    return "\n".join(f"{item.importer}:{item.line} imports {item.target}" for item in found)


def _inside() -> list[tuple[Import, str, str]]:
    """Imports of our own packages, with the importing and the imported top-level package."""
    return [
        (item, top_package(item.importer), top_package(item.target))
        for item in IMPORTS
        if item.target.split(".")[0] == "tunery" and top_package(item.importer)
    ]


def test_every_package_has_a_level() -> None:
    unknown = {top_package(item.importer) for item in IMPORTS} - set(LEVELS) - {""}
    assert not unknown, f"give {unknown} a level here and in docs/architecture.md"


def test_imports_point_downwards() -> None:
    upwards = [
        item
        for item, source, target in _inside()
        if target in LEVELS
        and source != target
        and LEVELS[target] >= LEVELS[source]
        and (source, target) not in SIDEWAYS
    ]
    assert not upwards, _show(upwards)


def test_dashboard_goes_through_the_api() -> None:
    around = [
        item
        for item, source, target in _inside()
        if source == "dashboard" and target in LEVELS and target not in PAGES_MAY_USE
    ]
    assert not around, _show(around)


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_package_keeps_foreign_libraries_out(package: str) -> None:
    found = [
        item
        for item in IMPORTS
        if top_package(item.importer) == package and item.target.split(".")[0] in FORBIDDEN[package]
    ]
    assert not found, _show(found)


GRAPH = module_graph()
PACKAGES = sorted({module.rpartition(".")[0] for module in GRAPH if "." in module})


def test_the_search_finds_cycles() -> None:
    """Of two, of three behind an entrance, and none in a diamond."""
    assert cycles({"a": {"b"}, "b": {"a"}, "c": {"a"}}) == [["a", "b"]]
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": {"b"}}) == [["b", "c", "d"]]
    assert cycles({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}) == []
    folders = sibling_graph({"t.x.one": {"t.y"}, "t.y": {"t.x.two"}, "t.x.two": set()}, "t")
    assert cycles(folders) == [["x", "y"]]  # no circle of modules, and one of folders


def test_no_import_cycle_between_modules() -> None:
    assert not cycles(GRAPH)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_import_cycle_between_modules_and_folders_of(package: str) -> None:
    """What lies side by side in a folder, modules and folders alike, can be read one after the other."""
    assert not cycles(sibling_graph(GRAPH, package))
