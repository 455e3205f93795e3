"""What the project is installed from: pinned versions, hashes of every file, and a list of what runs."""

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from scripts import sbom

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCKS = tuple(f"requirements{end}.lock" for end in ("", "-dev", "-strip", "-export", "-dicom", "-baselines"))


def pins(name: str) -> dict[str, str]:
    """Give the names and versions that a file pins."""
    found = re.findall(r"^([\w.-]+)==([^\s;]+)", (ROOT / name).read_text(encoding="utf-8"), flags=re.M)
    return {sbom.normal(name): number for name, number in found}


def test_what_the_project_asks_for_is_pinned() -> None:
    """Each dependency, of developers too, at a version that it allows."""
    pinned = pins("constraints.txt")
    asked = [*PROJECT["dependencies"], *(line for lines in PROJECT["optional-dependencies"].values() for line in lines)]
    for need in map(Requirement, asked):
        assert need.specifier.contains(pinned[sbom.normal(need.name)]), need


def test_the_locks_have_what_is_pinned_and_nothing_else() -> None:
    """But torch, whose build the machine's index chooses; what runs is in all, what developers and arms need in one."""
    run, dev, strip, export, dicom, baselines = map(pins, LOCKS)
    assert run.items() < strip.items() < dev.items() and run.items() < baselines.items()
    assert run.items() < export.items() < dev.items() and "onnxscript" in export
    assert run.items() < dicom.items() < dev.items() and "highdicom" in dicom
    assert (strip.keys() & baselines.keys()) - run.keys() == {"pandas", "tqdm"}  # which both extras need
    assert run.keys() < strip.keys() & baselines.keys() and "deepbet" in strip
    assert {**dev, **baselines, "torch": pins("constraints.txt")["torch"]} == pins("constraints.txt")
    assert {sbom.normal(Requirement(line).name) for line in PROJECT["dependencies"]} - {"torch"} <= run.keys()
    assert not {"pytest", "mypy", "ruff", "mkdocs"} & run.keys()


@pytest.mark.parametrize("name", LOCKS)
def test_every_file_of_a_lock_has_its_digest(name: str) -> None:
    """pip takes no file without, and setuptools, which builds this project, on every machine."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines and all(re.search(r"--hash=sha256:[0-9a-f]{64}\b", line) for line in lines)
    assert not re.search(r"://|--(extra-)?index-url|--find-links|md5|sha1", text)
    own = [line.split("--hash")[0] for line in lines if line.startswith("setuptools==")]
    assert len(own) == 1 and ";" not in own[0]


def test_the_bill_of_materials_has_what_the_format_wants() -> None:
    """CycloneDX 1.6: what is required, known words, and references that lead somewhere; the same bytes each time."""
    bill = sbom.bill()
    assert (bill["bomFormat"], bill["specVersion"], bill["version"]) == ("CycloneDX", "1.6", 1)
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", bill["serialNumber"])
    parts = [bill["metadata"]["component"], *bill["components"]]
    for part in parts:
        assert part["type"] in ("application", "library", "platform")
        assert part["name"] and part["version"]
        assert part["type"] == "platform" or part["purl"].startswith("pkg:pypi/")
        for licence in part.get("licenses", ()):
            assert list(licence) in (["expression"], ["license"])
    references = [part["bom-ref"] for part in parts]
    assert len(set(references)) == len(references)
    for line in bill["dependencies"]:
        assert {line["ref"], *line["dependsOn"]} <= set(references)
    assert json.dumps(sbom.bill()) == json.dumps(bill)


def test_the_bill_of_materials_lists_what_runs_and_nothing_else() -> None:
    """All that this project asks for, in the version that is installed, and what that needs; no tool of developers."""
    found = {sbom.normal(part["name"]): part["version"] for part in sbom.bill()["components"]}
    for need in map(Requirement, PROJECT["dependencies"]):
        assert found[sbom.normal(need.name)] == version(need.name)
    assert {"ray", "uvloop", "cryptography", "cpython"} <= found.keys()  # by an extra of flwr, of uvicorn; by flwr
    assert not {"pytest", "mypy", "ruff", "mkdocs", "sst-federation"} & found.keys()


def test_the_command_writes_the_bill(tmp_path: Path) -> None:
    """Into a folder that it makes."""
    out = tmp_path / "build" / "sbom.json"
    done = subprocess.run(
        [sys.executable, "scripts/sbom.py", str(out)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(out.read_text(encoding="utf-8")) == sbom.bill()
    assert done.stdout.startswith(f"{out}: ")
    done = subprocess.run([sys.executable, "scripts/sbom.py"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: say where to: python scripts/sbom.py build/sbom.json\n")
