"""The mutation tool: what it breaks is there, and its rules change what they say."""

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def mutants() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("mutants", ROOT / "scripts" / "mutants.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutants"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_named_mutant_fits_the_code(mutants: Any) -> None:
    """Exactly once, and gives other code that compiles; its tests are there. A new name in the code shows here."""
    listing = mutants.Listing.read()
    assert len(listing.named) >= 60
    for entry in listing.named:
        mutant = mutants.named(entry, listing)
        whole = ast.unparse(ast.parse((ROOT / mutant.file).read_text(encoding="utf-8")))
        assert mutant.source != whole, mutant.name
        compile(mutant.source, mutant.file, "exec")
    tests = {test for some in listing.tests.values() for test in some}
    tests |= {test for entry in listing.named for test in entry.get("tests", "").split()}
    assert not [path for path in (*tests, *listing.tests) if not (ROOT / path).is_file()]


@pytest.mark.parametrize(("old", "times"), [("no_such_thing(1)", "is 0 times"), ("batch.target", "is [2-9] times")])
def test_code_that_is_gone_or_there_twice_is_named(mutants: Any, old: str, times: str) -> None:
    """Rather than left out in silence."""
    entry = {"name": "x", "file": "sst_models/phases/joint.py", "old": old, "new": "0"}
    with pytest.raises(mutants.Unfit, match=f"{times} in .*, not once"):
        mutants.named(entry, mutants.Listing.read())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a < b", {"a <= b"}),
        ("a + b", {"a - b", "a"}),
        ("a and b", {"a or b"}),
        ("not a", {"a"}),
        ("x(3)", {"x(4)", "pass"}),
        ("a if b else c", {"a", "c"}),
        ("loss(a, b)", {"loss(b, a)", "pass"}),
        ("y = x.mean(dim=d)", {"y = x.sum(dim=d)"}),
        ("assert True", {"assert False"}),
        ("if a:\n    x = b", {"if False:\n    x = b"}),
        ("raise E(1 + 2)", set()),
        ("def f(x: int=c) -> 'a < b':\n    'a + 1'\n    return x", set()),
    ],
)
def test_rules_change_one_thing(mutants: Any, before: str, after: set[str]) -> None:
    """Annotations, docstrings and the texts of errors stay."""
    tree = ast.parse(before)
    found = set()
    for place in list(mutants._places(tree)):
        for new in mutants._variants(place.node):
            place.put(new)
            found.add(ast.unparse(ast.fix_missing_locations(tree)))
            place.put(place.node)
    assert found == after
    assert ast.unparse(tree) == ast.unparse(ast.parse(before))
