"""Holds the table of ARCHITECTURE.md: which package may import which, of ours and of others."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("configs", "sst_models", "client", "server", "simulation")

MAY_IMPORT: dict[str, set[str]] = {
    "configs": set(),
    "sst_models": {"configs"},
    "client": {"configs", "sst_models"},
    "server": {"configs", "sst_models"},
    "simulation": {"configs", "sst_models", "client", "server"},
}

# Packages that are free of transport, file formats and display: all that they may import beside the standard library.
ONLY: dict[str, set[str]] = {
    "configs": {"pydantic"},
    "sst_models": {"torch", "numpy", "safetensors", "monai", "flwr"},
}

# Flower's edge: the only modules that may import it.
FLOWER = (
    "client/app.py",
    "client/messages.py",
    "server/app.py",
    "server/messages.py",
    "server/federation.py",
    "sst_models/wire/records.py",
    "simulation/engines/",
)

MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def name(path: Path) -> str:
    """Give a module's path below the root."""
    return path.relative_to(ROOT).as_posix()


def imported(path: Path) -> Iterator[str]:
    """Give the dotted name of everything that a module imports, at any depth of it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parent.parts
            above = package[: len(package) - node.level + 1] if node.level else ()
            yield ".".join([*above, *filter(None, [node.module])])


def roots(path: Path) -> set[str]:
    """Give the top-level packages that a module imports."""
    return {module.partition(".")[0] for module in imported(path)}


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_imports_only_the_packages_of_ours_that_it_may(path: Path) -> None:
    """Each package imports only the packages that the table names; nothing imports the tests."""
    package = path.relative_to(ROOT).parts[0]
    ours = roots(path) & {*PACKAGES, "tests", "sst"}
    assert ours <= MAY_IMPORT[package] | {package}


@pytest.mark.parametrize("path", [path for path in MODULES if path.relative_to(ROOT).parts[0] in ONLY], ids=name)
def test_configs_and_the_maths_import_few_libraries(path: Path) -> None:
    """The maths knows torch but no transport and no file of a hospital; the presets know neither."""
    package = path.relative_to(ROOT).parts[0]
    assert roots(path) - sys.stdlib_module_names - set(PACKAGES) <= ONLY[package]


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_flower_is_imported_at_the_edge_only(path: Path) -> None:
    """No algorithm knows Flower: its API moves with every minor version."""
    assert "flwr" not in roots(path) or name(path).startswith(FLOWER)


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_nothing_pickles(path: Path) -> None:
    """Weights and states on disk are safetensors: no module imports a pickle or calls torch.save or torch.load."""
    assert not roots(path) & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}
    assert not calls & {"torch.save", "torch.load"}


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_no_module_is_named_like_a_test(path: Path) -> None:
    """Flower leaves test_*.py and *_test.py out of the app that it ships to the sites."""
    assert not path.stem.startswith("test_") and not path.stem.endswith("_test")


@pytest.mark.parametrize("package", ["client", "server"])
def test_the_parents_of_flowers_entry_points_are_empty(package: str) -> None:
    """Flower's own command imports these packages when it builds the app, so they must hold no code."""
    assert not ast.parse((ROOT / package / "__init__.py").read_text()).body[1:]


def test_all_packages_are_there() -> None:
    """The table speaks of packages that exist."""
    assert all((ROOT / package / "__init__.py").is_file() for package in PACKAGES)
