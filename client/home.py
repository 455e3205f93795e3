"""The folder that a hospital keeps for its site: what lies where, and what `site.toml` says."""

import json
import os
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client.kit import Kit, read_kit
from configs import kits
from configs.errors import ConfigError, DataError, RunError
from sst_models.wire.files import replace_file

SETTINGS = "site.toml"


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
    sandbox: str = "required"  # "off": the app is not confined
    tools: str = ""  # folders that the app may read and execute, separated as in PATH


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
        """What the app writes: prepared scans, and what it keeps of runs."""
        return self.folder / "state"

    @property
    def gate(self) -> Path:
        """What the gate alone writes: approved runs, ledger, logs, replies."""
        return self.folder / "gate"

    @property
    def flower(self) -> Path:
        """Flower's own folder, which holds the approved app."""
        return self.folder / "flower"

    @property
    def app(self) -> Path:
        """The unpacked app that was approved.

        Raises:
            RunError: none was.
        """
        try:
            return self.flower / "apps" / str(json.loads(self.approved.read_text(encoding="utf-8"))["folder"])
        except (OSError, ValueError, KeyError) as error:
            raise RunError(f"no app is approved; look at it and approve it: sst site approve {self.folder}") from error

    @property
    def refused(self) -> Path:
        """Apps that were sent and did not run."""
        return self.folder / "refused.log"

    @property
    def kit(self) -> dict[str, object]:
        """What the kit said: federation, run, atlas, preset, bundle, versions.

        Raises:
            DataError: `kit.json` is missing or damaged.
        """
        path = self.folder / "kit.json"
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise DataError(f"{path} cannot be read; put the kit back: sst site approve {self.folder} --kit") from error

    @property
    def kit_digest(self) -> str:
        """The digest of the whole kit, as the hub's operator reads it out.

        Raises:
            DataError: a file of the kit is missing.
        """
        try:
            return kits.digest({name: (self.folder / name).read_bytes() for name in kits.FILES})
        except OSError as error:
            raise DataError(f"{error.filename}: {error.strerror}; put the kit back: sst site approve --kit") from error

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
        if values.get("sandbox", "required") not in ("required", "off"):
            raise ConfigError(f'{path}: sandbox is {values["sandbox"]!r}; give "required" or "off"')
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
        The site's folder, the public key to send to the hub, and the kit's digest, to compare by another way.

    Raises:
        DataError: the kit cannot be used (see `read_kit`), or there is no folder of scans.
        RunError: the folder holds something else.
    """
    found = read_kit(kit)
    name = found.site
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
    home.folder.mkdir(parents=True, exist_ok=True)
    home.folder.chmod(0o700)  # it may have been there
    _unpack(found, home)
    public = make_key(home.key, home.folder / f"{name}.pub")
    where = os.pathsep.join(str(place.resolve()) for place in data)
    lines = (
        f"name = {json.dumps(name)}  # as the hub knows this site",
        f"address = {json.dumps(found.address)}  # of the hub",
        f"data = {json.dumps(where)}  # folders of scans",
        "port = 9094  # on loopback, for this site's own processes",
        'device = "auto"  # auto, cpu or cuda',
        'splits = ""  # a splits.tsv; without one, people are split at random',
        'mask_pattern = ""  # where brain masks lie: see sst prepare',
        'strip = ""  # for whole heads: "deepbet", or a stripper\'s command; see sst prepare',
        'bias = "yes"  # no: the scans\' bias fields are out already',
        'sandbox = "required"  # off: the hub\'s app can do all that this user can',
        'tools = ""  # folders that the app may read and execute, as that of a stripper',
    )
    replace_file(home.folder / SETTINGS, "\n".join(lines) + "\n")
    return home, public, found.digest


def take(home: Home, kit: Path) -> None:
    """Put a new kit in the place of the one that a site has; nothing of it runs before it is approved.

    Raises:
        DataError: the kit cannot be used (see `read_kit`), the authority that the site knows did not sign it, or it is
            another site's.
    """
    found, own = read_kit(kit), home.settings.name
    if not found.signed_by(home.authority.read_bytes()):
        raise DataError(
            f"{kit} is not signed by the hub that {home.folder} joined ({home.authority}): it is somebody else's; do "
            "not use it, and ask the hub's operator by a way that you trust"
        )
    if found.site != own:
        raise DataError(
            f"{kit} is the kit of the site '{found.site}', not of '{own}'; ask the hub's operator for yours"
        )
    _unpack(found, home)


def _unpack(kit: Kit, home: Home) -> None:
    for name, data in kit.content.items():
        replace_file(home.folder / name, data)


def new_key(home: Home) -> Path:
    """Make a second key beside the site's, or find it; give the public one, to send to the hub.

    Raises:
        RunError: the folder is no site's.
        ConfigError: site.toml is not as it should be.
    """
    return make_key(home.new_key, home.folder / "new" / f"{home.settings.name}.pub")


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
    return make_key(home.key, public)


def make_key(private: Path, public: Path) -> Path:
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
