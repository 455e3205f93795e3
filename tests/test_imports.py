"""Holds the table of ARCHITECTURE.md: which package may import which, of ours and of others."""

import ast
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("configs", "sst_models", "client", "server", "simulation")

MAY_IMPORT: dict[str, set[str]] = {
    "configs": set(),
    "sst_models": {"configs"},
    "client": {"configs", "sst_models"},
    "server": {"configs", "sst_models"},
    "simulation": {"configs", "sst_models", "client", "server"},
}

# What secure sums are made from; of the method only their wing imports it.
CIPHERS = {"cryptography", "Crypto"}

# Packages that are free of transport, file formats and display: all that they may import beside the standard library.
ONLY: dict[str, set[str]] = {
    "configs": {"pydantic"},
    "sst_models": {"torch", "numpy", "safetensors", "monai", "flwr", *CIPHERS},
}

# What the commands of all parts share: the only modules of configs that know a terminal.
COMMAND_LINE = {"configs/console.py": {"click", "typer"}, "configs/cli.py": {"typer", "rich"}}

# Flower's edge: the only modules that may import it.
FLOWER = (
    "client/app.py",
    "client/gate/clientapp.py",
    "client/messages.py",
    "server/app.py",
    "server/messages.py",
    "server/federation.py",
    "sst_models/wire/records.py",
    "simulation/engines/",
)

# The wings of the method, from the ground up: each imports only from floors below its own.
FLOORS = (
    ("volume", "wire"),
    ("losses", "training", "secure_sum"),
    ("propagation",),
    ("networks", "statistics"),
    ("phases",),
)

MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def name(path: Path) -> str:
    """Give a module's path below the root."""
    return path.relative_to(ROOT).as_posix()


def package_of(path: Path) -> str:
    """Give the package that a module is in."""
    return path.relative_to(ROOT).parts[0]


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Parse a module; give all that is in it."""
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imported(path: Path) -> Iterator[str]:
    """Give the dotted name of everything that a module imports, at any depth of it."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parent.parts
            above = package[: len(package) - node.level + 1] if node.level else ()
            yield ".".join([*above, *filter(None, [node.module])])


def roots(path: Path) -> set[str]:
    """Give the top-level packages that a module imports."""
    return {module.partition(".")[0] for module in imported(path)}


def offenders(wrong: Callable[[Path], set[str]]) -> list[str]:
    """Give each module in which something is wrong, and what."""
    return [f"{name(path)}: {', '.join(sorted(found))}" for path in MODULES if (found := wrong(path))]


def test_a_wing_of_the_method_imports_only_from_below() -> None:
    """The ground floor of sst_models has no room but the wings, and no arrow between them runs up or in a circle."""
    floor = {wing: number for number, wings in enumerate(FLOORS) for wing in wings}
    assert {path.stem for path in (ROOT / "sst_models").iterdir()} - {"__init__", "__pycache__"} == set(floor)

    def up(path: Path) -> set[str]:
        wing = path.relative_to(ROOT).parts[1]
        taken = {module.split(".")[1] for module in imported(path) if module.startswith("sst_models.")}
        return {other for other in taken - {wing} if floor[other] >= floor.get(wing, 0)}

    assert not offenders(lambda path: up(path) if package_of(path) == "sst_models" else set())


def test_a_module_imports_only_the_packages_of_ours_that_it_may() -> None:
    """Each package imports only the packages that the table names; nothing imports the tests."""
    ours = {*PACKAGES, "tests", "sst"}
    assert not offenders(lambda path: roots(path) & ours - MAY_IMPORT[package_of(path)] - {package_of(path)})


def test_configs_and_the_maths_import_few_libraries() -> None:
    """The maths knows torch but no transport and no file of a hospital; the presets know neither."""
    known = {*sys.stdlib_module_names, *PACKAGES}

    def more(path: Path) -> set[str]:
        return roots(path) - known - ONLY.get(package_of(path), roots(path)) - COMMAND_LINE.get(name(path), set())

    assert not offenders(more)


def test_the_method_has_ciphers_in_one_wing() -> None:
    """What encrypts, signs and splits secrets is in secure_sum alone, where it can be read at once."""
    wing = "sst_models/secure_sum/"
    inside = [path for path in MODULES if package_of(path) == "sst_models" and not name(path).startswith(wing)]
    assert not [name(path) for path in inside if roots(path) & CIPHERS]


def test_flower_is_imported_at_the_edge_only() -> None:
    """No algorithm knows Flower: its API moves with every minor version."""
    assert not offenders(lambda path: set() if name(path).startswith(FLOWER) else roots(path) & {"flwr"})


def test_nothing_pickles() -> None:
    """Weights and states on disk are safetensors: no module imports a pickle or calls torch.save or torch.load."""

    def pickles(path: Path) -> set[str]:
        calls = {ast.unparse(node.func) for node in nodes(path) if isinstance(node, ast.Call)}
        modules = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
        return roots(path) & modules | calls & {"torch.save", "torch.load"}

    assert not offenders(pickles)


def test_no_module_is_named_like_a_test() -> None:
    """Flower leaves test_*.py and *_test.py out of the app that it ships to the sites."""
    assert not [name(path) for path in MODULES if path.stem.startswith("test_") or path.stem.endswith("_test")]


def test_the_parents_of_flowers_entry_points_are_empty() -> None:
    """Flower's own command imports these packages when it builds the app, so they must hold no code."""
    for package in ("client", "server"):
        tree = ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8"))
        assert len(tree.body) == (ast.get_docstring(tree) is not None), package


def test_all_packages_are_there() -> None:
    """The table speaks of packages that exist."""
    assert all((ROOT / package / "__init__.py").is_file() for package in PACKAGES)
