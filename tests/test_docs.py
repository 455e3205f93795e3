"""What README and the documentation say of commands, settings, files, tests and links is true of the code."""

import ast
import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
from mkdocs.exceptions import PluginError
from pydantic import Field

import client.home
import server.office
from client.audit.membership import Estimate, Membership
from client.audit.statistics import Attacked
from client.gate import audit, ledger
from client.gate.policy import Policy
from configs import phases, schema
from configs import presets as preset_files
from configs.console import examples
from configs.presets import About
from configs.statistics import count
from configs.structures import PAPER
from scripts import commands_page, pages, settings_page
from server.backup import Saved
from server.status import Status
from simulation.audit.audit import Audit, Part, SiteAudit
from simulation.audit.copies import Copies
from simulation.audit.releases import Noise, Release
from simulation.measured import Results
from sst_models.phases.material import Material
from sst_models.wire.exchange import PhaseRequest, SiteReply
from sst_models.wire.payload import Parcel

NUMBERS = count(PAPER)

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
GENERATED = pages.pages()

FOLDERS = "benchmarks|client|configs|deploy|docs|examples|scripts|server|simulation|sst_models|tests"


def name(path: Path) -> str:
    """Give a page's path below the root."""
    return path.relative_to(ROOT).as_posix()


def text(page: str) -> str:
    """Give a page of the folder `docs`."""
    return (ROOT / "docs" / page).read_text(encoding="utf-8")


def blocks(path: Path) -> list[str]:
    """Give the lines of a page's indented blocks of code, one that is continued as one."""
    joined = path.read_text(encoding="utf-8").replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.startswith("    ")]


def unfenced(path: Path) -> str:
    """Give a page without its fenced blocks of code."""
    return re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.S | re.M)


def spans(path: Path) -> list[str]:
    """Give what stands between backquotes in a page, outside of fenced blocks."""
    return re.findall(r"`([^`\n]+)`", unfenced(path))


# Commands

COMMANDS = commands_page.commands(commands_page.command_line())


def command_of(words: list[str]) -> tuple[str, Any]:
    """Find the command that the first words of a line name."""
    named = next((" ".join(words[:n]) for n in (3, 2) if " ".join(words[:n]) in COMMANDS), "")
    assert named, f"there is no command {' '.join(words[:3])}"
    return named, COMMANDS[named]


def in_blocks(first: str) -> list[list[str]]:
    """Give all lines in blocks of code that begin with a word, as a shell would split them."""
    lines = [line for path in PAGES for line in blocks(path) if line.startswith(f"{first} ")]
    return [shlex.split(line, comments=True) for line in lines]


def test_commands_in_blocks_can_be_given_so() -> None:
    """A command in a block of code is whole: the command line takes its arguments and options as they stand there."""
    lines = in_blocks("sst")
    assert len(lines) > 15
    for words in lines:
        named, command = command_of(words)
        command.make_context(named, words[len(named.split()) :])


def test_commands_in_sentences_exist_with_their_options() -> None:
    """A command in a sentence may leave things out, but what it names exists."""
    said = [re.sub(r"^site ", "sst site ", span) for path in PAGES for span in spans(path)]
    lines = [shlex.split(span) for span in said if re.match(r"sst [a-z]", span)]
    assert len(lines) > 30
    for words in lines:
        _, command = command_of(words)
        known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)} | {"--help", "-h"}
        assert {word for word in words if re.match(r"--?[a-z]", word)} <= known, words


def test_make_targets_exist() -> None:
    """Every `make X` in a page is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    lines = [line for path in PAGES for line in (*spans(path), *blocks(path))]
    named = {match[1] for line in lines if (match := re.match(r"make ([a-z]+)", line))}
    assert {"demo", "test", "docs"} <= named <= targets


@pytest.mark.parametrize("command", ["flower-superlink", "flower-supernode", "flwr run"])
def test_flowers_commands_have_the_options_that_pages_give_them(command: str) -> None:
    """What a page does by hand, Flower's commands can do."""
    tool, *more = command.split()
    used = {word for words in in_blocks(command) for word in words if word.startswith("--")}
    asked = [str(Path(sys.executable).with_name(tool)), *more, "--help"]
    shown = subprocess.run(asked, capture_output=True, text=True, timeout=120, check=True, env={"COLUMNS": "200"})
    assert used and not {option for option in used if option not in shown.stdout}


# Links, files, tests


def anchors(page: str) -> set[str]:
    """Give the anchors of a page's headings, as MkDocs and GitHub make them, and those that are given."""
    headings = re.findall(r"^#+ (.*?)(?: \{ #([\w-]+) \})?$", page, flags=re.M)
    return {given or re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title, given in headings}


def leads(path: Path, link: str) -> bool:
    """Whether a link of a page leads to a file, or a generated page, and to a heading of it."""
    file, _, anchor = link.partition("#")
    made = path.parent.name == "docs" and file in GENERATED
    there = path.parent / file if file else path
    if not (made or there.is_file()):
        return False
    return not anchor or anchor in anchors(GENERATED[file] if made else there.read_text(encoding="utf-8"))


def test_links_lead_somewhere() -> None:
    """Every relative link leads to a file or a generated page, and every anchor to a heading."""
    links = [(path, link) for path in PAGES for link in re.findall(r"\w\]\(([^)\s]+)\)", unfenced(path))]
    inside = [(path, link) for path, link in links if not link.startswith("http")]
    assert len(inside) > 40
    assert [(name(path), link) for path, link in inside if not leads(path, link)] == []


def test_files_that_pages_name_exist() -> None:
    """A path in backquotes that begins with a folder of the project exists; names in capitals stand for others."""
    named = {span for path in PAGES for span in spans(path) if re.fullmatch(rf"({FOLDERS})/[\w./-]*", span)}
    assert len(named) > 40
    assert [path for path in sorted(named) if "NAME" not in path and not (ROOT / path).exists()] == []


def test_equations_are_where_the_method_page_says() -> None:
    """Each function and class that the page names is in the file before it."""
    rows = re.findall(r"`(sst_models/[\w/]+\.py)`: ((?:`\w+`(?:, )?)+)", text("method.md"))
    assert len(rows) > 10
    for file, names in rows:
        there = {getattr(node, "name", "") for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body}
        assert set(re.findall(r"\w+", names)) <= there, file


def test_all_equations_are_on_the_method_page() -> None:
    """The table has each of the paper's twelve."""
    rows = re.findall(r"^\| ([\d, ]+) \|", text("method.md"), flags=re.M)
    assert {int(number) for row in rows for number in row.split(", ")} == set(range(1, 13))


def test_tests_that_pages_name_exist() -> None:
    """A claim that names a test names one that there is."""
    code = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py"))
    named = {span for path in PAGES for span in spans(path) if re.fullmatch(r"test_\w+", span)}
    assert len(named) > 15
    assert [one for one in sorted(named) if f"def {one}(" not in code] == []


def test_what_code_cites_is_in_the_documentation() -> None:
    """A finding or a decision that code names is on its page; nothing cites notes that are not in the repository."""
    files = [path for folder in FOLDERS.split("|") for path in (ROOT / folder).rglob("*.py")]
    code = " ".join(" ".join(path.read_text(encoding="utf-8") for path in files if path.parent.name != "tests").split())
    findings = set(re.findall(r"docs/flower\.md, finding (\d+)", code))
    assert findings and findings <= set(
        re.findall(r"^### (\d+)\. .* \{ #finding-\1 \}$", text("flower.md"), flags=re.M)
    )
    cited = re.findall(r'docs/decisions\.md, "([^"]+)"(?: and "([^"]+)")?', code)
    titles = {title for both in cited for title in both if title}
    assert titles and titles <= set(re.findall(r"^### (.*)$", text("decisions.md"), flags=re.M))
    assert not re.search(r"\b(FLOWER|METHOD|DESIGN)(\.md|,|:)", code)


def test_lines_of_prose_are_short() -> None:
    """A page can be read, and its changes compared, in a terminal; rows of tables cannot be broken."""
    lines = [(name(path), line) for path in PAGES for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(page, line) for page, line in lines if len(line) > 120 and not line.startswith("|")] == []


def test_the_example_of_a_phase_is_a_phase_that_learns() -> None:
    """The row and the file of the page on new phases work as they stand there."""
    row, file = re.findall(r"^```python\n(.*?)^```", text("extend.md"), flags=re.S | re.M)
    phase = eval(row, vars(phases))
    names: dict[str, Any] = {}
    exec(file, names)

    class Scans(list[torch.Tensor]):
        image = list.__getitem__

    scans, atlas = Scans([torch.full((1, 4, 4, 4), 0.7)]), torch.full((1, 4, 4, 4), 0.2)
    net = torch.nn.Conv3d(1, 1, 1)
    for parameter in net.parameters():
        torch.nn.init.zeros_(parameter)
    learner = names["make"]({"offset": net}, schema.load("tiny"), Material(scans, atlas))
    learner.optimisers["offset"].param_groups[0]["lr"] = 0.1
    losses = [learner.step(torch.Generator()) for _ in range(30)]
    assert losses[-1]["total"] < 0.1 * losses[0]["total"]
    assert (set(losses[0]), set(learner.nets)) == (set(phase.losses), set(phase.learns))


# Settings and formats

KEYS = {one.key for table in settings_page.tables(schema.Experiment) for one in table.settings}
TABLES = {key.rpartition(".")[0] for key in KEYS} - {""}


def test_settings_that_pages_name_exist() -> None:
    """A key in backquotes that begins with a table of a preset is in the schema; files are none."""
    said = {re.split(r" ?=", span)[0] for path in PAGES for span in spans(path)}
    keys = {key for key in said if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", key) and key.rpartition(".")[0] in TABLES}
    others = {key for key in keys if key.endswith(".safetensors")}
    assert len(keys - others) > 20
    assert sorted(keys - others - KEYS) == []


def test_changes_of_settings_on_a_page_can_be_made() -> None:
    """The example of `--set` in a page is a change that a preset takes."""
    changes = [span for path in PAGES for span in spans(path) if re.fullmatch(r"[a-z_.]+\.[a-z_]+=[\w.]+", span)]
    assert changes
    schema.load("tiny", changes)


def keys_of(heading: str) -> set[str]:
    """Give what stands between backquotes in the first column of the table under a heading of the page on files."""
    section = re.search(rf"^### {re.escape(heading)}$(.*?)(?=^##|\Z)", text("files.md"), flags=re.S | re.M)
    assert section, heading
    return {
        key
        for cell in re.findall(r"^\| (`[^|]+) \|", section[1], flags=re.M)
        for key in re.findall(r"`([\w.]+)`", cell)
    }


def test_configuration_files_are_described_key_by_key() -> None:
    """The table of a TOML file has exactly the keys that its reader takes."""
    readers = {"hub.toml": server.office.Settings, "site.toml": client.home.Settings, "policy.toml": Policy}
    for file, settings in readers.items():
        assert keys_of(file) == {item.name for item in fields(settings)}, file


def test_results_audit_and_ledger_are_described_field_by_field(tmp_path: Path) -> None:
    """The tables of `results.json`, `audit.json` and the gate's files have every field that their writers write."""
    assert {item.name for item in fields(Results)} | {"format"} <= keys_of("results.json")
    of_audit = (Audit, SiteAudit, Noise, Part, Release, Membership, Estimate, Attacked, Copies)
    section = text("files.md").partition("### audit.json")[2].partition("\n###")[0]
    assert {item.name for value in of_audit for item in fields(value)} <= set(re.findall(r"`(\w+)`", section))
    arrays = {"T": {"weight": np.zeros(2, np.float32)}}
    reply = SiteReply("north", "register", 1, 3, arrays=arrays)
    ledger.append(tmp_path / ledger.NAME, PhaseRequest("run", "register", 1, "north", "{}"), reply, Parcel(arrays))
    entry = json.loads((tmp_path / ledger.NAME).read_text(encoding="utf-8"))
    assert set(entry) | {"noise", "training"} == keys_of("ledger.jsonl")  # which not every reply has
    audit.check(np.zeros((5, NUMBERS)), "run", tmp_path, Policy())
    assert set(audit.audits(tmp_path)[0]) == keys_of("audits.jsonl")
    assert {f"`{key}`" for key in entry["parts"]["T"]} <= set(re.findall(r"`\w+`", text("files.md")))


def test_events_are_described() -> None:
    """Every event that the hub writes is in the table, and no other."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "server").glob("*.py")))
    assert set(re.findall(r"\.tell\((?:\s*|[\w.]+, )\"([\w.]+)\"", code)) == keys_of("events.jsonl") - {"event"}


# Generated pages


@dataclass(frozen=True)
class Inner:
    """A table in a table."""

    share: Annotated[float, Field(ge=0, le=1)] = 0.5  # of the steps
    # Either of two,
    # which this comment explains.
    way: Literal["near", "far"] = "near"


@dataclass(frozen=True)
class Toy:
    """A preset of few keys.

    More about it.
    """

    name: str
    sides: tuple[int, int, int] = (1, 2, 3)  # voxels
    some: tuple[int, ...] = (4,)
    maybe: float | None = None
    inner: Inner = field(default=Inner(way="far"))


def test_settings_are_read_from_the_schema_with_their_comments() -> None:
    """Names, types, defaults and comments come from the classes, for nested tables from the table that is nested."""
    top, inner = settings_page.tables(Toy)
    assert (top.name, top.text, inner.name, inner.text) == ("", "A preset of few keys.", "inner", "A table in a table.")
    assert [(one.key, one.kind, one.default, one.text) for one in top.settings] == [
        ("name", "text", None, ""),
        ("sides", "list of 3, each a whole number", (1, 2, 3), "voxels"),
        ("some", "list, each a whole number", (4,), ""),
        ("maybe", "number or left out", None, ""),
    ]
    assert [(one.key, one.kind, one.default, one.text) for one in inner.settings] == [
        ("inner.share", "number, at least 0 and at most 1", 0.5, "of the steps"),
        ("inner.way", '`"near"` or `"far"`', "far", "Either of two, which this comment explains."),
    ]


def test_every_setting_is_on_its_page_with_what_presets_set() -> None:
    """Each key of the schema has a row in its table, and one more if a preset differs from its default."""
    page = GENERATED["settings.md"]
    for table in settings_page.tables(schema.Experiment):
        section = page.partition(f"## [{table.name}]" if table.name else "## Top of the file")[2].partition("\n## ")[0]
        assert all(f"| `{one.key.rpartition('.')[2]}` | {one.text}" in section for one in table.settings)
    presets = [schema.load(preset) for preset in preset_files.names()]
    steps = ["" if one.phases.adapt.steps == 100 else f"`{one.phases.adapt.steps}`" for one in presets]
    assert any(steps) and f"| `phases.adapt.steps` | {' | '.join(steps)} |" in page


def test_every_command_and_option_is_on_its_page_with_its_help() -> None:
    """Each command has a section, in it each argument and option with its help; none is without one."""
    page = GENERATED["commands.md"]
    assert {"sst simulate", "sst segment", "sst hub init", "sst site approve"} <= set(COMMANDS)
    for named, command in COMMANDS.items():
        section = page.partition(f"\n## {named}\n")[2].partition("\n## ")[0].replace("\\|", "|")
        assert command.help.strip() in section
        assert examples(command.epilog) and all(f"\n{line}\n" in section for line in examples(command.epilog))
        for one in commands_page.parameters(command):
            shown = one.opts[0] if commands_page.is_option(one) else one.metavar
            assert one.help and one.help in section and shown in section, (named, one.name)


def test_links_of_the_page_of_commands_lead_somewhere() -> None:
    """To pages and headings that are there."""
    links = re.findall(r"\]\(([^)\s]+)\)", GENERATED["commands.md"])
    assert len(links) > 5
    assert [link for link in links if not leads(ROOT / "docs" / "commands.md", link)] == []


def test_every_document_of_a_command_is_described() -> None:
    """Each command with `--json` says what it then prints, with the fields that its result has."""
    given = {named for named, command in COMMANDS.items() if any("--json" in one.opts for one in command.params)}
    assert given == set(commands_page.DOCUMENTS)
    described = {named: set(re.findall(r"`(\w+)`", text)) for named, text in commands_page.DOCUMENTS.items()}
    for named, result in (("sst hub status", Status), ("sst hub backup", Saved), ("sst presets", About)):
        assert {item.name for item in fields(result)} <= described[named], named


def test_copied_pages_lead_nowhere_that_is_not_in_the_documentation() -> None:
    """In a file that becomes a page, a link to a page leads there, one to another file is its text alone."""
    links = "[a](benchmarks/x.md) [b](https://example.org) [c](#here) [d](docs/method.md#terms) [e](../docs/files.md)"
    assert pages.as_page(links) == "a [b](https://example.org) [c](#here) [d](method.md#terms) [e](files.md)"


@pytest.mark.parametrize(
    "tag",
    [
        '<script src="https://x.org/a.js">',
        "<link rel=stylesheet href=//x.org/a.css>",
        '<img alt="" src="http://x.org/a">',
    ],
)
def test_a_page_that_loads_from_another_host_is_refused(tag: str) -> None:
    """No web font, no script of a content network: a hospital's network has no way out."""

    class Page:
        class file:  # noqa: N801
            src_uri = "index.md"

    fine = '<script src="assets/a.js"></script><a href="https://flower.ai">Flower</a>'
    assert pages.on_post_page(fine, Page, None) == fine
    with pytest.raises(PluginError, match="index.md loads something"):
        pages.on_post_page(fine + tag, Page, None)
