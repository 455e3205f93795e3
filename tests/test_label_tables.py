"""Every piece of the product is told the label table of its run: none falls back on the paper's without a word."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("configs", "sst_models", "client", "server", "simulation")

OF_THE_PAPER = {
    # Where a table is chosen, and what is of the paper's alone.
    "configs/structures.py", "configs/statistics.py", "configs/phases.py", "client/api.py",
    "simulation/reference.py", "simulation/measured.py",
    "simulation/anatomy.py", "simulation/phantom.py", "simulation/scanner.py", "simulation/sites.py",
    # Whether a table is the paper's: digests and texts of its runs stay as they were.
    "client/native.py", "client/preparation.py", "client/prepare.py", "server/atlas.py", "sst_models/volume/grid.py",
    # The paper's structures fill most of a brain; nothing is known of another table's.
    "server/fit.py",
}  # fmt: skip


def trees() -> dict[str, ast.Module]:
    """Parse all modules of the product."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def takers() -> dict[str, int]:
    """Give each function and class that a table can be left out of, and how many arguments come before it."""
    found = {}
    for tree in trees().values():
        classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        own = {method: f"{node.name}.{getattr(method, 'name', '')}" for node in classes for method in node.body}
        for node in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            given = [argument for argument in node.args.args if argument.arg != "self"]
            optional = given[len(given) - len(node.args.defaults) :]
            for argument in optional:
                if argument.arg == "table" and argument.annotation and ast.unparse(argument.annotation) == "LabelTable":
                    name, place = own.get(node, node.name).removesuffix(".__init__"), given.index(argument)
                    found[name] = min(place, found.get(name, place))
    return found


def test_no_call_leaves_the_label_table_out() -> None:
    """The default is for tests and for people in a shell; a call in the product that forgot it would be of brains."""
    known, odd = takers(), []
    assert {"AtlasLabels", "dice_per_group", "expectation_maximisation", "mirror_pair", "to_classes"} <= set(known)
    for path, tree in trees().items():
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            name = ast.unparse(call.func)
            name = name if name in known else name.rpartition(".")[2]
            if name in known:
                given = len(call.args) > known[name] or any(word.arg in ("table", None) for word in call.keywords)
                given = given or any(isinstance(argument, ast.Starred) for argument in call.args)
                odd += [] if given else [f"{path}:{call.lineno}: {name}"]
    assert not odd, "\n" + "\n".join(odd)


def test_the_paper_s_table_is_named_where_a_table_is_chosen_alone() -> None:
    """Beside defaults of arguments."""
    found = set()
    for path, tree in trees().items():
        defaults = [
            default
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef)
            for default in (*node.args.defaults, *node.args.kw_defaults)
        ]
        named = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "PAPER"]
        if any(node not in defaults for node in named):
            found.add(path)
    assert found <= OF_THE_PAPER, found - OF_THE_PAPER


def test_nothing_but_the_table_and_the_simulator_knows_a_structure_by_name() -> None:
    """A string that names a structure or a group of the paper's is a special case for brains."""
    from configs.structures import PAPER

    names = {*PAPER.groups, *(structure.name for structure in PAPER.structures)}
    simulator = {f"simulation/{name}.py" for name in ("anatomy", "phantom", "scanner", "shapes", "sites")}
    odd = [
        f"{path}:{node.lineno}: {node.value}"
        for path, tree in trees().items()
        if path != "configs/structures.py" and path not in simulator
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in names
    ]
    assert not odd, "\n" + "\n".join(odd)
