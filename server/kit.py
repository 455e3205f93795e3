"""Inviting a site and letting it in: a start-up kit goes out, a public key comes back, and no secret travels."""

import hashlib
import io
import json
import platform
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from configs import kits
from configs.errors import DataError, RunError
from configs.schema import from_json
from server import receipts
from server.atlas import published, read_atlas
from server.authority import sign
from server.office import LEFT, Office, check_name, dismissed
from sst_models.secure_sum.terms import site_key
from sst_models.wire.credentials import fingerprint
from sst_models.wire.files import replace_file, write_json
from sst_models.wire.payload import digest

README = """\
{federation}: start-up kit of the site "{site}"

Nothing in this kit is secret. Take it over a way on which you can ask the hub's operator whether it arrived as it was
sent: the first line that "sst site join" prints is a digest of all of it, and the operator has the same one.

On the machine that holds the scans, with the same version of this software as the hub ({versions}):

    sst site join {site}.zip --data DIR     makes the site's key, which never leaves it, and {site}.pub
    send {site}.pub to the hub's operator, by mail if you like: it is a public key
    sst site approve {site}                 shows the code that the hub would run here, and what may leave; asks you
    sst site check {site}                   each line green or red, with what to do
    sst site start {site}                   runs until you stop it; what it was doing goes on at the next start

The machine opens one connection, to {address}, and listens on nothing but its own loopback.
What left is in {site}/gate/ledger.jsonl; "sst site ledger {site}" shows and verifies it.
"""


@dataclass(frozen=True)
class Kit:
    """What was written for one site."""

    site: str
    path: Path
    digest: str  # of the whole kit, to read out by another way


def versions() -> dict[str, str]:
    """Give the versions that hub and sites must share."""
    return {
        "python": platform.python_version(),
        "flwr": version("flwr"),
        "torch": version("torch").split("+")[0],
        "sst-federation": version("sst-federation"),
    }


def invite(office: Office, site: str) -> Kit:
    """Write a site's kit; the same hub and site give the same bytes.

    Raises:
        ConfigError: the name cannot be used, or hub.toml is not as it should be.
        RunError: the folder is no hub's, or has no run or atlas.
    """
    check_name(site, "site")
    settings = office.settings
    experiment = from_json((office.folder / "experiment.json").read_text(encoding="utf-8"))
    bundle = office.bundle.read_bytes()
    about = {
        "federation": settings.name,
        "site": site,
        "address": settings.address,
        "bundle": hashlib.sha256(bundle).hexdigest(),
        "preset": experiment.name,
        "experiment": hashlib.sha256(experiment.to_json().encode()).hexdigest(),
        "seed": experiment.seed,
        **_run(office),
        "signer": receipts.public(office.folder),
        "versions": versions(),
    }
    listed = ", ".join(f"{name} {number}" for name, number in versions().items())
    readme = README.format(federation=settings.name, site=site, versions=listed, address=settings.address)
    content = {
        "README.txt": readme.encode(),
        "app.fab": bundle,
        "ca.crt": (office.tls / "ca.crt").read_bytes(),
        "experiment.json": experiment.to_json().encode(),
        "kit.json": json.dumps(about, indent=2, sort_keys=True).encode(),
    }
    signed = {**content, kits.SIGNATURE: sign(office.tls, kits.listing(content))}
    replace_file(office.kit(site), _packed(signed))
    return Kit(site, office.kit(site), kits.digest(content))


def _run(office: Office) -> dict[str, object]:
    """Give what a site approves of a run beside its preset: its name, and the digests of the atlas and its parts."""
    try:
        run = json.loads((office.folder / "plan.json").read_text(encoding="utf-8"))["run"]
        atlas = read_atlas(office.folder)
    except (OSError, ValueError, KeyError, TypeError, DataError) as error:
        raise RunError(f"{office.folder} has no readable plan and atlas; make the hub anew by sst hub init") from error
    parts = {"image": published(atlas), "labels": {"labels": atlas.packed()}}
    return {"run": str(run), "atlas": {"digest": atlas.digest} | {name: digest(part) for name, part in parts.items()}}


def _packed(content: Mapping[str, bytes]) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)  # dated 1980: the same bytes each time
    return memory.getvalue()


def admit(office: Office, key: Path, replace: bool = False) -> str:
    """Take in the public key that a site sent back; its name is that of the file.

    Args:
        office: the hub's folder.
        key: the site's .pub.
        replace: take it in the place of the key that the site had until now.

    Raises:
        ConfigError: the file's name is no site's.
        DataError: it is no public key of a site, the site was never invited, or it had another key and `replace` is
            not set.
    """
    site = check_name(key.stem, str(key))
    if not office.kit(site).exists():
        raise DataError(f"{key}: no site '{site}' was invited; sst hub invite {site}, or ask whose key this is")
    try:
        text = key.read_bytes()
    except OSError as error:
        raise DataError(f"{key} cannot be read: {error.strerror}") from error
    site_key(text, str(key))
    others = {fingerprint(path.read_bytes()): path.stem for path in (office.folder / "sites").rglob("*.pub")}
    if (owner := others.get(fingerprint(text), site)) != site:
        raise DataError(f"{key} is the key of the site '{owner}'; every site has its own")
    if not replace:
        _check_known(office, site, text)
    replace_file(office.key(site), text)
    office.old_key(site).unlink(missing_ok=True)
    _write_left(office, dismissed(office) - {site})
    return site


def _check_known(office: Office, site: str, text: bytes) -> None:
    """See that a site that was here before comes with the key that it had.

    Raises:
        DataError: it does not.
    """
    had = [fingerprint(path.read_bytes()) for path in (office.key(site), office.old_key(site)) if path.exists()]
    if not had and site not in dismissed(office):
        return
    if fingerprint(text) not in had:
        was = f", {had[0]}," if had else ""
        raise DataError(
            f"the site '{site}' had another key{was} until now: ask it, by a way that you trust, whether "
            f"{fingerprint(text)} is its new one, then add --replace"
        )


def dismiss(office: Office, site: str) -> None:
    """Let a site out of the federation: its key is put aside, and no round waits for it. `admit` lets it in again.

    Raises:
        DataError: no such site was admitted.
    """
    key = office.key(site)
    if site not in office.admitted:
        raise DataError(f"no site '{site}' is admitted; those that are: {', '.join(office.admitted) or 'none'}")
    _write_left(office, dismissed(office) | {site})
    replace_file(office.old_key(site), key.read_bytes())
    key.unlink()


def _write_left(office: Office, names: set[str]) -> None:
    if names != dismissed(office):
        write_json(sorted(names), office.folder / LEFT)
