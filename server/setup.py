"""Making a hub: its folder, authority, certificate, the app that sites will approve, and the proxy's configuration."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from configs.errors import ConfigError, RunError
from configs.schema import load
from configs.structures import change_of
from server.atlas import Bring, load_atlases, save_atlas
from server.authority import issue_server, make_authority, make_secret
from server.fit import check_pair
from server.office import SETTINGS, Office, Settings, check_name, write_settings
from server.sources import build_bundle, sources
from sst_models.wire.files import replace_file, write_json

PROXY = Path(__file__).with_name("templates") / "nginx.conf"


def make_hub(
    folder: Path,
    settings: Settings,
    preset: str,
    files: Sequence[tuple[Path, Path]],
    *,
    table: Path | None = None,
    bring: Bring | None = None,
    checked: bool = True,
) -> Office:
    """Make a hub's folder; it is whole when `hub.toml` is there, which is written last.

    Args:
        folder: new or empty.
        settings: what hub.toml says.
        preset: of the run; its name or path.
        files: the labelled scan, skull-stripped, and its label map; or several of these.
        table: the label table's file, instead of the preset's.
        bring: finds where each further atlas lies; not needed for one.
        checked: refuse labels that do not look as if they were the scan's.

    Raises:
        RunError: the folder holds something else, or this installation does not say what the app is made of.
        ConfigError: the preset, a setting or the folder's path cannot be used.
        DataError: the atlas cannot be used.
    """
    check_name(settings.name, "--name")
    office = Office(folder)
    if (folder / SETTINGS).exists():
        raise RunError(f"{folder} is a hub's folder already; give another one, or change its {SETTINGS}")
    experiment = load(preset, change_of(table))
    _ = sources(), proxy(office, settings)  # before anything is written
    grid = experiment.grid
    if bring is None and len(files) > 1:
        raise RunError("several atlases are aligned by the sites' own code, which is not installed here")
    atlas = load_atlases(files, grid.shape, grid.spacing, grid.label_oversampling, bring, table=experiment.table)
    for image, labels in files if checked else ():
        check_pair(image, labels, experiment.table)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)  # it may have been there
    save_atlas(atlas, folder)
    replace_file(folder / "experiment.json", experiment.to_json())
    write_json({"run": settings.name, "segment": None, "device": "auto"}, folder / "plan.json")
    make_authority(office.tls, settings.name)
    issue_server(office.tls, settings.host)
    make_secret(office.secret)
    write_bundle(office)
    replace_file(office.proxy, proxy(office, settings))
    replace_file(folder / SETTINGS, write_settings(settings))
    return office


def write_bundle(office: Office) -> None:
    """Build the app that sites approve, and keep a list of what it was built from.

    Raises:
        RunError: this installation does not say what the app is made of, or Flower cannot build it.
    """
    files = sources()
    bundle = build_bundle()
    replace_file(office.bundle, bundle)
    write_json({"digest": hashlib.sha256(bundle).hexdigest(), "sources": files}, office.built)


def proxy(office: Office, settings: Settings) -> str:
    """Give the proxy's configuration: `templates/nginx.conf` with this hub's names.

    Raises:
        ConfigError: the folder's path cannot stand in such a file.
    """
    where = str(office.folder.resolve())
    if any(mark in where for mark in " ;{}\"'$\\"):
        raise ConfigError(
            f"the hub's folder {where} has a character that nginx cannot have in a path; use a plain name"
        )
    text = PROXY.read_text(encoding="utf-8")
    values = {"FOLDER": where, "PORT": str(settings.port), "INNER": str(settings.inner)}
    return re.sub("|".join(values), lambda word: values[word[0]], text)
