"""What `sst site check` says of the hub's certificate and of the kit's, against a server that answers on loopback."""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from client import preflight
from client.home import Home
from server import authority
from server.authority import issue_server, make_authority


class Closed(BaseHTTPRequestHandler):
    """Refuses everything, as the proxy refuses a request without a key."""

    def do_GET(self) -> None:
        """Answer 403."""
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving(folder: Path) -> Iterator[int]:
    """Serve with `server.crt` of a folder; give the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Closed)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def looked(home: Home) -> dict[str, preflight.Line]:
    """Look at the kit's certificate and the hub."""
    with serving(home.folder) as port:
        lines = [preflight._authority(home), *preflight._hub(home, f"127.0.0.1:{port}")]
    return {line.name: line for line in lines}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A site's folder with an authority's certificate."""
    make_authority(tmp_path, "trial")
    return Home(tmp_path)


@pytest.mark.parametrize(("days", "told"), [(825, ""), (12, ": tell the hub's operator")])
def test_a_hubs_certificate_is_shown_with_its_end(
    days: float, told: str, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the certificate that the hub shows, and of the kit's; one that ends soon is worth a call."""
    monkeypatch.setattr(authority, "SERVER_DAYS", days)
    issue_server(home.folder, "127.0.0.1")
    lines = looked(home)
    assert all(line.fine for line in lines.values()) and "clock" in lines
    assert lines["hub, TLS"].found.endswith(f"{days} days{told}")
    assert lines["kit's certificate"].found.endswith("3650 days")


def test_a_certificate_of_an_earlier_version_is_no_attack(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python takes none without identifiers of keys from 3.13 on, and earlier ones where they are told to."""
    monkeypatch.setattr(authority, "_identified", lambda builder, *_: builder)
    make_authority(home.folder, "trial")
    issue_server(home.folder, "127.0.0.1")
    ours = ssl.create_default_context

    def strict(*, cafile: str) -> ssl.SSLContext:
        context = ours(cafile=cafile)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(preflight.ssl, "create_default_context", strict)
    line = looked(home)["hub, TLS"]
    assert not line.fine and "version before 0.4" in line.found and "made anew" in line.do


def test_an_expired_certificate_is_no_attack(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line says what the operator has to do; the alarm is for one of another authority."""
    monkeypatch.setattr(authority, "SERVER_DAYS", -0.01)
    issue_server(home.folder, "127.0.0.1")
    line = looked(home)["hub, TLS"]
    assert not line.fine and "expired" in line.found and "renew-certificates" in line.do
    issue = home.folder / "other"
    make_authority(issue, "other")
    monkeypatch.setattr(authority, "SERVER_DAYS", 825)
    issue_server(issue, "127.0.0.1")
    for name in ("server.crt", "server.key"):
        (home.folder / name).write_bytes((issue / name).read_bytes())
    line = looked(home)["hub, TLS"]
    assert not line.fine and "another certificate" in line.found and "do not start" in line.do


def test_an_expired_kit_is_red(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new one is to be had of the operator."""
    monkeypatch.setattr(authority, "AUTHORITY_DAYS", -0.01)
    make_authority(home.folder, "trial")
    line = preflight._authority(home)
    assert not line.fine and "expired on" in line.found and "new kit" in line.do
