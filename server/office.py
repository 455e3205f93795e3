"""The hub's folder, as its operator keeps it: what lies where, and what `hub.toml` says."""

import fcntl
import json
import os
import re
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

from configs.errors import ConfigError, RunError
from sst_models.wire.files import lock

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
"""What a site or a federation may be called: it becomes the name of files, and of a node."""

SETTINGS = "hub.toml"

LEFT = "left.json"
"""The names of the sites that the operator dismissed."""


@dataclass(frozen=True)
class Settings:
    """What an operator may change in `hub.toml` between runs."""

    name: str  # of the federation
    host: str  # by which sites reach the hub
    port: int  # of the proxy, the only one that faces the sites
    inner: int = 8000  # port of the SuperLink, on loopback
    sites: int = 2  # how many must be there before the first round
    wait: int = 86_400  # seconds to wait for them, and in mid-run for a quorum
    health: int = 0  # port of the SuperLink's health service, on loopback; 0 is none
    notify: str = ""  # a command that is run when the run waits, fails or is finished

    @property
    def address(self) -> str:
        """The hub's address as sites have it."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Office:
    """The hub's folder."""

    folder: Path

    @property
    def tls(self) -> Path:
        """Certificates and their keys: `ca`, `server`."""
        return self.folder / "tls"

    @property
    def secret(self) -> Path:
        """What the SuperLink and the process that starts ServerApps know of each other."""
        return self.folder / "private" / "superexec.secret"

    @property
    def bundle(self) -> Path:
        """The app as sites approve it."""
        return self.folder / "app.fab"

    @property
    def built(self) -> Path:
        """What the app was built from: the digest of each source file, and the app's own."""
        return self.folder / "app.json"

    @property
    def approved(self) -> Path:
        """The digest of the app, the only one that runs here."""
        return self.folder / "approved.json"

    @property
    def proxy(self) -> Path:
        """The proxy's configuration, made from `hub.toml` at each start."""
        return self.folder / "nginx" / "nginx.conf"

    @property
    def heartbeat(self) -> Path:
        """The sign of life of `sst hub start`."""
        return self.folder / "heartbeat.json"

    @property
    def metrics(self) -> Path:
        """Figures for Prometheus."""
        return self.folder / "metrics.prom"

    @property
    def flower(self) -> Path:
        """Flower's own folder: its configuration, database and apps."""
        return self.folder / "flower"

    @property
    def logs(self) -> Path:
        """One file for each process."""
        return self.folder / "logs"

    def key(self, site: str) -> Path:
        """The public key of an admitted site."""
        return self.folder / "sites" / f"{site}.pub"

    def old_key(self, site: str) -> Path:
        """The public key that a dismissed site had: by it alone it may come back without being asked."""
        return self.folder / "sites" / "dismissed" / f"{site}.pub"

    def kit(self, site: str) -> Path:
        """The start-up kit of an invited site."""
        return self.folder / "kits" / f"{site}.zip"

    @property
    def admitted(self) -> tuple[str, ...]:
        """The names of the sites whose keys are here."""
        return tuple(sorted(path.stem for path in (self.folder / "sites").glob("*.pub")))

    @property
    def settings(self) -> Settings:
        """Read `hub.toml`.

        Raises:
            RunError: the folder is no hub's.
            ConfigError: the file is not TOML, or has an unknown key, a wrong type or a bad value.
        """
        path = self.folder / SETTINGS
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise RunError(
                f"{self.folder} is not a hub's folder: it has no {SETTINGS}; make one by sst hub init"
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


def dismissed(office: Office) -> set[str]:
    """Give the names of the sites that were dismissed."""
    path = office.folder / LEFT
    return set(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else set()


def works(folder: Path) -> bool:
    """Whether the hub's app is at work in this folder: it holds the folder's lock for as long as it lives."""
    own = os.open(folder, os.O_RDONLY)
    try:
        lock(own, fcntl.LOCK_SH | fcntl.LOCK_NB, folder)
    except BlockingIOError:
        return True
    finally:
        os.close(own)
    return False


def write_settings(settings: Settings) -> str:
    """Give a `hub.toml`, with what each line is for."""
    return (
        f'name = "{settings.name}"\n'
        f'host = "{settings.host}"  # by which sites reach the hub; a new one needs a new server certificate\n'
        f"port = {settings.port}  # of the proxy: the only one open to the sites; taken at the next start\n"
        f"inner = {settings.inner}  # port of the SuperLink, on loopback\n"
        f"sites = {settings.sites}  # how many must be there before the first round\n"
        f"wait = {settings.wait}  # seconds to wait for them, and in mid-run for a quorum\n"
        f"health = {settings.health}  # port of the SuperLink's health service, on loopback; 0: none\n"
        f"notify = {json.dumps(settings.notify)}  # a command, run when the run waits, fails or is finished; no shell\n"
    )


def check_name(name: str, what: str) -> str:
    """Give a name back.

    Raises:
        ConfigError: it cannot be the name of a file and a node.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{what}: '{name}' is no name; use letters, digits, - and _, at most 32, first a letter or digit"
        )
    return name


def check_address(address: str) -> tuple[str, int]:
    """Split HOST:PORT.

    Raises:
        ConfigError: it is not that.
    """
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 65536):
        raise ConfigError(f"--address: '{address}' is not HOST:PORT, e.g. hub.example.org:8443")
    return host.strip("[]"), int(port)
