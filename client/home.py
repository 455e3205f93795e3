"""The folder that a hospital keeps for its site: what lies where, and what `site.toml` says."""

import hashlib
import io
import json
import os
import tomllib
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from configs.errors import ConfigError, DataError, RunError
from sst_models.wire.files import replace_file

SETTINGS, KIT_FILES = "site.toml", ("README.txt", "app.fab", "ca.crt", "experiment.json", "kit.json")
MOST = 50_000_000
"""Bytes that a kit may unpack to: the app is held to 10 MB by Flower itself."""


@dataclass(frozen=True)
class Settings:
    """What an IT person may change in `site.toml`; nothing of it comes from the hub but name and address."""

    name: str
    address: str  # of the hub, HOST:PORT
    data: str  # folders of scans, separated as in PATH
    port: int = 9094  # on loopback, for the site's own processes
    device: str = "auto"
    splits: str = ""
    mask_pattern: str = ""
    strip: str = ""
    bias: str = "yes"


@dataclass(frozen=True)
class Home:
    """A site's folder."""

    folder: Path

    @property
    def key(self) -> Path:
        """The site's private key."""
        return self.folder / "private" / "site.key"

    @property
    def new_key(self) -> Path:
        """A private key that waits until the hub has let it in."""
        return self.folder / "private" / "new.key"

    @property
    def authority(self) -> Path:
        """The certificate by which the hub is known."""
        return self.folder / "ca.crt"

    @property
    def bundle(self) -> Path:
        """The app that came with the kit, approved or not."""
        return self.folder / "app.fab"

    @property
    def approved(self) -> Path:
        """What was approved: digest, files, when."""
        return self.folder / "approved.json"

    @property
    def policy(self) -> Path:
        """The site's own rules for what may leave."""
        return self.folder / "policy.toml"

    @property
    def state(self) -> Path:
        """Prepared scans, ledger, log, and what the site keeps of runs."""
        return self.folder / "state"

    @property
    def flower(self) -> Path:
        """Flower's own folder, which holds the approved app."""
        return self.folder / "flower"

    @property
    def kit(self) -> dict[str, object]:
        """What the kit said: federation, preset, bundle, versions."""
        return dict(json.loads((self.folder / "kit.json").read_text(encoding="utf-8")))

    @property
    def settings(self) -> Settings:
        """Read `site.toml`.

        Raises:
            RunError: the folder is no site's.
            ConfigError: the file is not TOML, or has an unknown key or a wrong type.
        """
        path = self.folder / SETTINGS
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise RunError(
                f"{self.folder} is not a site's folder: it has no {SETTINGS}; make one by sst site join"
            ) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not valid TOML: {error}") from error
        known = {item.name: item.type for item in fields(Settings)}
        for key, value in values.items():
            if key not in known:
                raise ConfigError(f"{path}: unknown key '{key}'; it may have {', '.join(known)}")
            if type(value) is not known[key]:
                raise ConfigError(f"{path}: '{key}' is {value!r}, which is no {getattr(known[key], '__name__', '')}")
        try:
            return Settings(**values)
        except TypeError as error:
            raise ConfigError(f"{path} is incomplete: {error}") from error


def join(kit: Path, folder: Path | None, data: tuple[Path, ...]) -> tuple[Home, Path, str]:
    """Make a site's folder from a start-up kit, and its key.

    Args:
        kit: the zip from the hub's operator.
        folder: where to; None: the site's name, here.
        data: folders of scans.

    Returns:
        The site's folder, the public key to send to the hub, and the SHA-256 of the certificate, to compare by
        another way.

    Raises:
        DataError: the kit is damaged or no kit, or there is no folder of scans.
        RunError: the folder holds something else.
    """
    content = read_kit(kit)
    about = json.loads(content["kit.json"])
    name = str(about["site"])
    home = Home(folder or Path(name))
    if home.folder.exists() and any(home.folder.iterdir()) and not (home.folder / "kit.json").exists():
        raise RunError(f"{home.folder} holds something else; give another folder by --folder")
    if (home.folder / SETTINGS).exists():
        raise RunError(
            f"{home.folder} has joined already; to take a new kit, sst site approve {home.folder} --kit {kit}"
        )
    for place in data:
        if not place.exists():
            raise DataError(f"--data: there is no {place}; give the folder that holds the scans")
    for item, text in content.items():
        replace_file(home.folder / item, text)
    public = _make_key(home.key, home.folder / f"{name}.pub")
    where = os.pathsep.join(str(place.resolve()) for place in data)
    lines = (
        f"name = {json.dumps(name)}  # as the hub knows this site",
        f"address = {json.dumps(str(about['address']))}  # of the hub",
        f"data = {json.dumps(where)}  # folders of scans",
        "port = 9094  # on loopback, for this site's own processes",
        'device = "auto"  # auto, cpu or cuda',
        'splits = ""  # a splits.tsv; without one, people are split at random',
        'mask_pattern = ""  # where brain masks lie: see sst prepare',
        'strip = ""  # a stripper: see sst prepare',
        'bias = "yes"  # no: the scans\' bias fields are out already',
    )
    replace_file(home.folder / SETTINGS, "\n".join(lines) + "\n")
    return home, public, hashlib.sha256(content["ca.crt"]).hexdigest()


def read_kit(kit: Path) -> dict[str, bytes]:
    """Read a kit's files.

    Raises:
        DataError: it is damaged, too large, or no kit, or its bundle is not the one that it names.
    """
    try:
        data = kit.read_bytes()
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(item.file_size for item in archive.infolist()) > MOST:
                raise DataError(f"{kit} unpacks to more than {MOST // 1_000_000} MB; it is no start-up kit")
            content = {name: archive.read(name) for name in KIT_FILES}
        about = json.loads(content["kit.json"])
        x509.load_pem_x509_certificate(content["ca.crt"])
        named = str(about["bundle"])
        if not str(about["site"]).replace("-", "").replace("_", "").isalnum():
            raise DataError(f"{kit} is for a site with an odd name; ask the hub's operator")
    except OSError as error:
        raise DataError(f"{kit} cannot be read: {error.strerror}") from error
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, EOFError) as error:
        raise DataError(f"{kit} is damaged or no start-up kit; ask the hub's operator for it again") from error
    if hashlib.sha256(content["app.fab"]).hexdigest() != named:
        raise DataError(f"the app in {kit} is not the one that the kit names; ask the hub's operator for it again")
    return content


def new_key(home: Home) -> Path:
    """Make a second key beside the site's, or find it; give the public one, to send to the hub.

    Raises:
        RunError: the folder is no site's.
        ConfigError: site.toml is not as it should be.
    """
    return _make_key(home.new_key, home.folder / "new" / f"{home.settings.name}.pub")


def use_new_key(home: Home) -> Path:
    """Put the second key in the place of the site's, which is kept as `private/old.key`; give the public one.

    Raises:
        RunError: the folder is no site's, or has no second key.
        ConfigError: site.toml is not as it should be.
    """
    public = home.folder / f"{home.settings.name}.pub"
    if not home.new_key.exists():
        raise RunError(f"{home.folder} has no new key; sst site new-key {home.folder} makes one")
    old = home.key.with_name("old.key")
    if home.key.exists():
        old.unlink(missing_ok=True)
        os.link(home.key, old)
    home.new_key.replace(home.key)
    (home.folder / "new" / public.name).unlink(missing_ok=True)
    return _make_key(home.key, public)


def _make_key(private: Path, public: Path) -> Path:
    """Make a key, or find it: a join that was interrupted goes on with the same one; give the public one's path."""
    if not private.exists():
        key = ec.generate_private_key(ec.SECP384R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        private.parent.mkdir(parents=True, exist_ok=True)
        part = private.with_name(f".{private.name}")
        part.unlink(missing_ok=True)
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
        part.replace(private)
    kept = serialization.load_ssh_private_key(private.read_bytes(), None)
    assert isinstance(kept, ec.EllipticCurvePrivateKey)
    text = kept.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    replace_file(public, text + b"\n")
    return public
