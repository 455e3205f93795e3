"""How long the hub's certificates hold, whom they are for, and a new one for the server."""

from collections.abc import Iterator
from dataclasses import dataclass

from cryptography import x509

from configs.errors import RunError
from server.authority import covers, issue_server
from server.office import Office
from sst_models.wire.credentials import SOON, days_until, lasting

MEND = {
    "authority": "the federation needs a new hub, and each site a new kit: plan it in time",
    "server": "sst hub renew-certificates makes a new one",
}
"""What to do about a certificate that ends."""


@dataclass(frozen=True)
class Certificate:
    """One of the hub's certificates."""

    name: str  # authority or server
    until: float  # time.time() at which it ends
    days: float  # left; below zero once it has expired

    @property
    def told(self) -> str:
        """Say until when it holds."""
        return f"certificate of the {self.name}: {lasting(self.until)}"


@dataclass(frozen=True)
class Warned:
    """What an operator should know before it hurts."""

    text: str
    severe: bool  # no site can come


def certificates(office: Office) -> tuple[Certificate, ...]:
    """Look at the authority's and the server's; one that is not there is left out."""
    found = []
    for name, file in (("authority", "ca.crt"), ("server", "server.crt")):
        path = office.tls / file
        if path.exists():
            until = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.timestamp()
            found.append(Certificate(name, until, days_until(until)))
    return tuple(found)


def warnings(office: Office) -> Iterator[Warned]:
    """Tell of certificates that end soon or have ended, and of a server certificate for another name than hub.toml's.

    Raises:
        RunError: the folder is no hub's.
        ConfigError: hub.toml is not as it should be.
    """
    for one in certificates(office):
        if one.days < SOON:
            yield Warned(f"{one.told}; {MEND[one.name]}", one.days < 0)
    host, server = office.settings.host, office.tls / "server.crt"
    if server.exists() and not covers(server, host):
        yield Warned(
            f"the server's certificate is not for {host}, the host of hub.toml: sst hub renew-certificates "
            f"{office.folder}, and send each site a new kit (sst hub invite) or its new address for site.toml",
            True,
        )


def renew(office: Office) -> Certificate:
    """Issue the server's certificate anew, for the host that hub.toml names.

    Raises:
        RunError: the folder is no hub's, or the authority's key is not there, or its certificate has expired.
        ConfigError: hub.toml is not as it should be.
    """
    settings = office.settings
    if not (office.tls / "ca.key").exists():
        raise RunError(f"{office.tls / 'ca.key'}, the authority's key, is missing: put your copy of it there first")
    if certificates(office)[0].days < 0:
        raise RunError(f"the authority's certificate in {office.tls} has expired; {MEND['authority']}")
    issue_server(office.tls, settings.host)
    return certificates(office)[1]
