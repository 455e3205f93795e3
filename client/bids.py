"""What BIDS wants beside the files themselves."""

import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from sst_models.wire.files import replace_file, write_json

VERSION = "1.10.0"
"""Of BIDS, which our folders follow."""


def describe(folder: Path, name: str, kind: str, by: str, beside: Sequence[str] = ()) -> None:
    """Write `dataset_description.json`, and `.bidsignore` where there is more than BIDS knows of.

    Args:
        folder: of the data set.
        name: what it is called.
        kind: "raw" or "derivative".
        by: how it was made, in a few words.
        beside: patterns of files that are not BIDS's.
    """
    try:
        version = metadata.version("sst-federation")
    except metadata.PackageNotFoundError:
        version = "unknown"
    made = [{"Name": "sst", "Version": version, "Description": by}]
    about = {"Name": name, "BIDSVersion": VERSION, "DatasetType": kind, "GeneratedBy": made}
    write_json(about, folder / "dataset_description.json", indent=2)
    if beside:
        replace_file(folder / ".bidsignore", "\n".join(beside) + "\n")


SIMULATED = ("simulated scanner", "sst")
"""What made raw data sets of nobody, as their descriptions name it: `sst demo`, and `sst generate`."""


def of_nobody(folder: Path) -> bool:
    """Whether a folder of scans says that they are simulated or generated: of people who do not exist."""
    try:
        about = json.loads((folder / "dataset_description.json").read_text(encoding="utf-8"))
        return about["DatasetType"] == "raw" and any(made["Name"] in SIMULATED for made in about["GeneratedBy"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
