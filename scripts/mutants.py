#!/usr/bin/env python3
"""Break the code on purpose, one small change at a time, and see whether a test notices.

    python scripts/mutants.py                         # all named mutants, and some of every file; about 25 minutes
    python scripts/mutants.py --list                  # their names; an error if one of them fits nowhere any more
    python scripts/mutants.py --only "eq. 11"         # all with this text in their name or in that of their file
    python scripts/mutants.py --only fold --each 4    # and of these no more than four by rule of each file
    python scripts/mutants.py --each 1000             # every change that the script can think of; hours

`scripts/mutants.toml` lists files, the tests that hold each, changes chosen by hand, and changes that make no
difference. A change chosen by hand is code and what takes its place, both compared as syntax trees, so that line
breaks, comments and moves do not matter; code that is not found exactly once is an error. The other changes are made by
rule: operators, comparisons, constants, conditions, arguments in another order, calls left out. Each runs on a copy.
"""

import argparse
import ast
import copy
import os
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
LISTING = ROOT / "scripts" / "mutants.toml"
COPIED = (
    "benchmarks",
    "client",
    "configs",
    "server",
    "simulation",
    "sst_models",
    "tests",
    "pyproject.toml",
    "sst.py",
    "README.md",
    "ARCHITECTURE.md",
)

ENVIRONMENT = {"OMP_NUM_THREADS": "1"}
LIBRARIES = (
    "torch",
    "pytest",
    "hypothesis",
    "scipy.stats",
    "nibabel",
    "pydantic",
    "flwr.clientapp",
    "monai.networks.nets",
)

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
SYMMETRIC = {"ms_ssim", "ssim_l1", "lncc", "_structure", "addcmul_"}
METHODS = {"mean": "sum", "sum": "mean", "amax": "amin", "amin": "amax", "argmax": "argmin", "max": "min", "min": "max"}
ORDERLESS = {"isinstance", "zip", "range", "map", "getattr", "max", "min", "super", "promote_types", *SYMMETRIC}
"""Functions whose first two arguments are not exchanged: it would be an error of types, or no change."""


class Unfit(Exception):
    """The listing and the code do not fit together."""


@dataclass(frozen=True)
class Mutant:
    """One change of one file."""

    name: str
    file: str
    source: str  # of the whole file, changed
    tests: tuple[str, ...]
    equivalent: str = ""  # why no test can tell it from the code as it is


@dataclass
class Listing:
    """What `mutants.toml` says."""

    tests: dict[str, list[str]]  # by file
    named: list[dict[str, str]] = field(default_factory=list)
    equivalent: dict[str, str] = field(default_factory=dict)  # reason, by name

    @staticmethod
    def read() -> "Listing":
        """Read it."""
        values = tomllib.loads(LISTING.read_text(encoding="utf-8"))
        return Listing(values["tests"], values["mutant"], values["equivalent"])


# Changes chosen by hand


def named(entry: dict[str, str], listing: Listing) -> Mutant:
    """Make one of the listing's mutants.

    Raises:
        Unfit: its code is not in the file, or more than once.
    """
    tree = ast.parse((ROOT / entry["file"]).read_text(encoding="utf-8"))
    old, new = _snippet(entry["old"]), _snippet(entry["new"])
    wanted = ast.dump(old)
    found = [place for place in _places(tree) if ast.dump(place.node) == wanted]
    if len(found) != 1:
        raise Unfit(f"{entry['name']}: `{entry['old']}` is {len(found)} times in {entry['file']}, not once")
    found[0].put(new)
    tests = entry.get("tests", "").split() or listing.tests[entry["file"]]
    why = listing.equivalent.get(entry["name"], "")
    return Mutant(entry["name"], entry["file"], ast.unparse(ast.fix_missing_locations(tree)), tuple(tests), why)


def _snippet(text: str) -> ast.AST:
    """Parse an expression or one statement; nothing is `pass`."""
    (statement,) = ast.parse(text or "pass").body
    return statement.value if isinstance(statement, ast.Expr) else statement


# Changes by rule


@dataclass(frozen=True)
class Place:
    """A node of a syntax tree, and where it hangs."""

    node: ast.AST
    parent: ast.AST
    slot: str
    number: int | None  # in a list
    inside: str  # name of the function or class, dotted

    def put(self, new: ast.AST) -> None:
        """Hang another node there."""
        if self.number is None:
            setattr(self.parent, self.slot, new)
        else:
            getattr(self.parent, self.slot)[self.number] = new


def _places(node: ast.AST, inside: str = "") -> Iterator[Place]:
    """Give all that is below a node and is no annotation, decorator, docstring or text of an error."""
    for slot, value in ast.iter_fields(node):
        if slot in ("annotation", "returns", "decorator_list") or isinstance(node, ast.JoinedStr | ast.Raise):
            continue
        if isinstance(node, ast.keyword) and node.arg == "strict":
            continue
        many = isinstance(value, list)
        for number, child in enumerate(value if many else [value]):
            if not isinstance(child, ast.AST) or _is_text(child):
                continue
            yield Place(child, node, slot, number if many else None, inside)
            below = isinstance(child, ast.FunctionDef | ast.ClassDef)
            yield from _places(child, f"{inside}.{child.name}".lstrip(".") if below else inside)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _variants(node: ast.AST) -> Iterator[ast.AST]:
    """Give what a node could be changed to."""
    changed = copy.deepcopy(node)
    match changed:
        case ast.Compare(ops=[op]) if type(op) in SWAPS:
            changed.ops = [SWAPS[type(op)]()]  # type: ignore[list-item]
            yield changed
        case ast.BinOp(op=op) | ast.BoolOp(op=op) | ast.AugAssign(op=op) if type(op) in SWAPS:
            changed.op = SWAPS[type(op)]()  # type: ignore[assignment]
            yield changed
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
                yield node.left
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(value=float(value)) if not 0 < value < 1e-4:  # smaller ones only keep a quotient finite
            yield ast.Constant(2 * value or 1.0)
        case ast.IfExp():
            yield changed.body
            yield changed.orelse
        case ast.If():
            changed.test = ast.Constant(False)
            yield changed
        case ast.Expr(value=ast.Call()):
            yield ast.Pass()
        case ast.Call(func=ast.Attribute(attr=attr)) if attr in METHODS:
            changed.func.attr = METHODS[attr]  # type: ignore[attr-defined]
            yield changed
        case ast.Call(args=[ast.Name() | ast.Attribute(), ast.Name() | ast.Attribute(), *_]):
            if getattr(changed.func, "id", getattr(changed.func, "attr", "")) not in ORDERLESS:
                changed.args[:2] = changed.args[1::-1]
                yield changed


def by_rule(file: str, listing: Listing) -> list[Mutant]:
    """Make every mutant of a file that the rules know, named by function and change."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    seen: Counter[str] = Counter()
    made = []
    for place in list(_places(tree)):
        for new in _variants(place.node):
            name = f"{Path(file).stem}.{place.inside}: {_line(place.node)} -> {_line(new)}".replace(".:", ":")
            seen[name] += 1
            name += f" #{seen[name]}" if seen[name] > 1 else ""
            place.put(new)
            source = ast.unparse(ast.fix_missing_locations(tree))
            place.put(place.node)
            made.append(Mutant(name, file, source, tuple(listing.tests[file]), listing.equivalent.get(name, "")))
    return made


def _line(node: ast.AST) -> str:
    text = ast.unparse(node).splitlines()[0]
    return text if len(text) <= 70 else f"{text[:67]}..."


def choose(listing: Listing, each: int, only: str = "") -> list[Mutant]:
    """Give the named mutants, and of every file at most `each` by rule, evenly spread; those with `only` in their name.

    Raises:
        Unfit: a named mutant, or one that is listed as making no difference, is not there.
    """
    hand = [named(entry, listing) for entry in listing.named]
    rule = [by_rule(file, listing) for file in listing.tests]
    if gone := set(listing.equivalent) - {mutant.name for some in [hand, *rule] for mutant in some}:
        raise Unfit(f"listed as equivalent, and in no file: {'; '.join(sorted(gone))}")
    hand, *rule = ([one for one in some if only in f"{one.file}: {one.name}"] for some in [hand, *rule])
    return hand + [mutant for some in rule for mutant in _spread(some, each)]


def _spread(some: list[Mutant], count: int) -> list[Mutant]:
    if len(some) <= count:
        return some
    return [some[(2 * number + 1) * len(some) // (2 * count)] for number in range(count)]


# Running


@dataclass(frozen=True)
class Result:
    """What came of one mutant."""

    mutant: Mutant
    state: str  # killed | timeout | survived | equivalent
    seconds: float
    by: str = ""  # the test that failed


class Workshop:
    """A copy of the code that can be broken."""

    def __init__(self, folder: Path, limit: float) -> None:
        """Copy what the tests need.

        Args:
            folder: an empty one.
            limit: seconds for one mutant's tests.
        """
        self.folder, self.limit = folder, limit
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, folder / name)

    def try_out(self, mutant: Mutant) -> Result:
        """Run a mutant's tests on it, up to the first that fails."""
        path, began = self.folder / mutant.file, time.monotonic()
        whole = path.read_text(encoding="utf-8")
        path.write_text(mutant.source, encoding="utf-8")
        try:
            state, by = self.test(mutant.tests)
        finally:
            path.write_text(whole, encoding="utf-8")
        if state == "survived" and mutant.equivalent:
            state = "equivalent"
        return Result(mutant, state, time.monotonic() - began, by)

    def test(self, tests: Sequence[str]) -> tuple[str, str]:
        """Run tests in the copy, in a fork of this process, which has the libraries already: half of the time.

        Returns:
            "survived" where all pass, "killed" or "timeout"; and the first test that failed.
        """
        with tempfile.TemporaryFile("w+") as said:
            child = os.fork()
            if not child:
                self._pytest(said.fileno(), tests)
            code = _wait(child, self.limit)
            said.seek(0)
            lines = said.read().splitlines()
        if code is None:
            return "timeout", ""
        failed = [line.split(" - ")[0] for line in lines if line.startswith(("FAILED", "ERROR"))]
        return ("killed", [*failed, *lines[-1:], "crashed"][0]) if code else ("survived", "")

    def _pytest(self, out: int, tests: Sequence[str]) -> NoReturn:
        """Become a run of pytest in the copy, which writes to the file `out`."""
        code = 1
        try:
            os.setsid()
            os.dup2(out, 1)
            os.dup2(out, 2)
            os.chdir(self.folder)
            sys.path.insert(0, str(self.folder))
            code = int(import_module("pytest").main(["-x", "-q", "--no-header", "-p", "no:cacheprovider", *tests]))
            sys.stdout.flush()
        finally:
            os._exit(code)

    def check(self, tests: Sequence[str]) -> None:
        """See that the code passes its tests as it is, and that it is the copy that is tested.

        Raises:
            Unfit: it does not, or is not.
        """
        limit, self.limit = self.limit, 1800.0
        state, by = self.test(tests)
        if state != "survived":
            raise Unfit(f"the tests do not pass as it is: {by or state}")
        (self.folder / "sst_models" / "__init__.py").write_text("raise SystemExit('broken on purpose')")
        if self.test(tests)[0] == "survived":
            raise Unfit(f"the tests do not see the copy of the code in {self.folder}")
        shutil.copy(ROOT / "sst_models" / "__init__.py", self.folder / "sst_models" / "__init__.py")
        self.limit = limit


def _wait(child: int, seconds: float) -> int | None:
    """Give a process's exit code, or None where it took too long and was ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def run(mutants: list[Mutant], limit: float, say: Callable[[str], None] = print) -> list[Result]:
    """Try mutants one after the other, and say what came of each."""
    results = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        workshop = Workshop(Path(folder).resolve(), limit)
        os.environ |= ENVIRONMENT
        sys.dont_write_bytecode = True  # two mutants of one second and one size would look alike
        for library in LIBRARIES:
            import_module(library)
        workshop.check(sorted({test for mutant in mutants for test in mutant.tests}))
        for number, mutant in enumerate(mutants, start=1):
            result = workshop.try_out(mutant)
            results.append(result)
            how = f"{number:4}/{len(mutants)}  {result.state:10} {result.seconds:5.1f} s  {mutant.name}"
            say(how + (f"  [{result.by.rpartition('::')[2]}]" if result.by else ""))
    return results


def report(results: list[Result]) -> str:
    """Tell the share killed by file, and what survived."""
    files = sorted({result.mutant.file for result in results})
    lines = ["", f"{'file':45} {'mutants':>8} {'killed':>7} {'equal':>6} {'survived':>9}"]
    for file in [*files, ""]:
        states = Counter(result.state for result in results if file in ("", result.mutant.file))
        killed = states["killed"] + states["timeout"]
        counts = f"{states.total():8} {killed:7} {states['equivalent']:6} {states['survived']:9}"
        lines.append(f"{file or 'all':45} {counts}")
    rest = len(results) - states["equivalent"]
    lines.append(f"\nkilled: {killed} of {rest} ({100 * killed / max(1, rest):.1f} %)")
    lines += [f"survived: {result.mutant.name}" for result in results if result.state == "survived"]
    lines += [f"equivalent: {r.mutant.name}: {r.mutant.equivalent}" for r in results if r.state == "equivalent"]
    return "\n".join(lines)


def main() -> int:
    """Run what the command line asks for; 1 where a mutant survived."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the names of the mutants, and run none")
    parser.add_argument("--only", default="", metavar="TEXT", help="those with this text in their name or file")
    parser.add_argument("--each", type=int, metavar="N", help="mutants by rule of each file, at most; 8")
    parser.add_argument("--limit", type=float, default=120.0, metavar="SECONDS", help="time for one mutant's tests")
    asked = parser.parse_args()
    try:
        each = asked.each if asked.each is not None else 1000 if asked.only else 8
        mutants = choose(Listing.read(), each, asked.only)
        if asked.list:
            print("\n".join(f"{mutant.file}: {mutant.name}" for mutant in mutants))
            return 0
        results = run(mutants, asked.limit, lambda line: print(line, flush=True))
    except Unfit as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report(results))
    return int(any(result.state == "survived" for result in results))


if __name__ == "__main__":
    sys.exit(main())
