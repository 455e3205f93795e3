"""MkDocs' hook (`mkdocs.yml`): adds the pages that are made from the code, and checks every page that was built.

Generated pages are nowhere in the repository, so they cannot differ from the code.
"""

import re
from pathlib import Path
from typing import Any

from scripts import commands_page, settings_page

ROOT = Path(__file__).resolve().parent.parent

COPIED = {
    "architecture.md": "ARCHITECTURE.md",
    "results.md": "benchmarks/RESULTS.md",
    "changelog.md": "CHANGELOG.md",
}
"""Pages that are files of the repository -> those files."""

LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|#)(?:(?:\.\./)?docs/)?([^)]*)\)")
"""A link to another file of the repository: its text, and where it leads, in the folder `docs` if need be."""

LOADS = re.compile(
    r"<(?:script|link|img|iframe|source|object|embed)\b[^>]*?\b(?:src|href|data)=[\"']?(?:https?:)?//[^>]*>", re.I
)
"""A tag for which a browser asks another host."""


def pages() -> dict[str, str]:
    """Give all generated pages, by their names in the documentation."""
    copied = {page: as_page((ROOT / path).read_text(encoding="utf-8")) for page, path in COPIED.items()}
    return {"settings.md": settings_page.page(), "commands.md": commands_page.page(), **copied}


def as_page(text: str) -> str:
    """Make a page of a file of the repository: of a link that leads out of the documentation its text stays."""
    written = {path.name for path in (ROOT / "docs").glob("*.md")} | {"settings.md", "commands.md", *COPIED}
    return LINK.sub(lambda link: _inside(link, written), text)


def _inside(link: re.Match[str], written: set[str]) -> str:
    return f"[{link[1]}]({link[2]})" if link[2].partition("#")[0] in written else link[1]


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages to those of the folder `docs`."""
    from mkdocs.structure.files import File

    for name, text in pages().items():
        files.append(File.generated(config, name, content=text))
    return files


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Refuse a page that asks another host for something: it has to work in a network without a way out.

    Raises:
        PluginError: it does.
    """
    if found := LOADS.search(output):
        from mkdocs.exceptions import PluginError

        raise PluginError(f"{page.file.src_uri} loads something from another host: {found[0][:200]}")
    return output
