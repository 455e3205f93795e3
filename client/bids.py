"""What BIDS wants beside the files themselves."""

from importlib import metadata
from pathlib import Path

from sst_models.wire.files import write_json

VERSION = "1.10.0"
"""Of BIDS, which our folders follow."""


def describe(folder: Path, name: str, kind: str, by: str) -> None:
    """Write `dataset_description.json`.

    Args:
        folder: of the data set.
        name: what it is called.
        kind: "raw" or "derivative".
        by: how it was made, in a few words.
    """
    try:
        version = metadata.version("sst-federation")
    except metadata.PackageNotFoundError:
        version = "unknown"
    made = [{"Name": "sst", "Version": version, "Description": by}]
    about = {"Name": name, "BIDSVersion": VERSION, "DatasetType": kind, "GeneratedBy": made}
    write_json(about, folder / "dataset_description.json", indent=2)
