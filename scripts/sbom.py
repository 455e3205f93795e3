"""Write what a hub or a site runs as a software bill of materials: CycloneDX 1.6, JSON.

    python scripts/sbom.py build/sbom.json

It is read from the installed environment, without the network: this project, all that its `dependencies` bring here,
and Python itself; tools of developers are left out. The same environment gives the same bytes.
"""

import json
import platform
import re
import sys
import uuid
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import quote

from packaging.requirements import Requirement

ROOT = "sst-federation"


def bill() -> dict[str, Any]:
    """Give the bill of the environment that this Python is of.

    Raises:
        PackageNotFoundError: this project, or something that it needs, is not installed.
    """
    parts = installed(ROOT)
    needs = {name: {normal(need.name) for need in parts[name]} for name in parts}
    python = {"type": "platform", "bom-ref": "python", "name": "CPython", "version": platform.python_version()}
    content = {
        "metadata": {"component": component(ROOT, "application")},
        "components": [*(component(name, "library") for name in sorted(parts) if name != ROOT), python],
        "dependencies": [
            {"ref": package_url(name), "dependsOn": [package_url(one) for one in sorted(needs[name])]}
            for name in sorted(parts)
        ],
    }
    number = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(content, sort_keys=True))
    head = {"$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json", "bomFormat": "CycloneDX"}
    return {**head, "specVersion": "1.6", "serialNumber": f"urn:uuid:{number}", "version": 1, **content}


def installed(root: str) -> dict[str, list[Requirement]]:
    """Give the names of a distribution and of all that it needs here, each with what it needs itself."""
    found: dict[str, list[Requirement]] = {}
    seen, todo = set(), [(root, "")]
    while todo:
        name, extra = todo.pop()
        if (name, extra) not in seen:
            seen.add((name, extra))
            below = list(needed(distribution(name), extra))
            found.setdefault(name, []).extend(below)
            todo += [(normal(need.name), one) for need in below for one in ("", *need.extras)]
    return found


def needed(part: Distribution, extra: str) -> Iterator[Requirement]:
    """Give what a distribution needs here, with one of its extras or, "", without."""
    for line in part.requires or ():
        need = Requirement(line)
        if need.marker is None or need.marker.evaluate({"extra": extra}):
            yield need


def component(name: str, kind: str) -> dict[str, Any]:
    """Describe one distribution."""
    part = distribution(name)
    url = package_url(name)
    known = {"type": kind, "bom-ref": url, "name": part.metadata["Name"], "version": part.version, "purl": url}
    said = {"description": part.metadata["Summary"], "licenses": licences(part)}
    return known | {key: value for key, value in said.items() if value}


def licences(part: Distribution) -> list[dict[str, Any]]:
    """Give a distribution's licence as it says itself: an SPDX expression, a name, or what its classifiers say."""
    about = part.metadata
    if about["License-Expression"]:
        return [{"expression": about["License-Expression"]}]
    classes = [line.split(" :: ")[-1] for line in about.get_all("Classifier") or () if line.startswith("License ::")]
    text = (about["License"] or "").strip().removeprefix("UNKNOWN")
    name = text if text and "\n" not in text and len(text) < 100 else ", ".join(classes)
    return [{"license": {"name": name}}] if name else []


def package_url(name: str) -> str:
    """Name a distribution as scanners know it."""
    return f"pkg:pypi/{name}@{quote(distribution(name).version, safe='.')}"


def normal(name: str) -> str:
    """Give a name as the index has it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    """Write the bill."""
    if len(sys.argv) != 2:
        sys.exit("error: say where to: python scripts/sbom.py build/sbom.json")
    try:
        text = json.dumps(bill(), indent=2, ensure_ascii=False) + "\n"
    except PackageNotFoundError as error:
        sys.exit(f"error: {error.name} is not installed in {sys.prefix}: run make install")
    out = Path(sys.argv[1])
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    print(f"{out}: {len(json.loads(text)['components'])} components")


if __name__ == "__main__":
    main()
