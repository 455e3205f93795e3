"""The live page of a run: what `sst hub dashboard` and `sst simulate --watch` serve, to be read and nothing else.

The page is made here, whole, from the records of a hub's folder, so that it reads without scripts, too; its own script
only takes the parts that have changed from a newer one. It answers GET alone, loads nothing from elsewhere, sets no
cookie, and answers only to names that are this machine's own (a page of somebody else that has its own name point here
gets nothing).
"""

import ipaddress
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from configs.errors import RunError
from configs.shown import shown, size_text
from server import events
from server.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, phase_charts
from server.drawn import FOLDER
from server.facts import Facts, facts
from server.office import Office
from server.status import ago, lasting, span, status

if TYPE_CHECKING:  # imported when a page is served
    import jinja2
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK, PORT = "127.0.0.1", 8765
"""Where the page is, unless somebody wants it elsewhere."""

OPEN = (
    "warning: whoever reaches {host} sees the page, without a password and unencrypted: names of sites, when each was "
    "seen, losses, bytes, failures, generated images and Dice"
)
"""What is said where others than this machine may look."""

FRESH = 1.0
"""Seconds for which what was read counts as new, however many look."""

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
"""Of every answer."""

FILES = {"dashboard.css": "text/css", "dashboard.js": "text/javascript"}
"""Files that the page loads, and their types."""


@dataclass(frozen=True)
class Simulated:
    """What is known of a simulation beside the federation that is shown."""

    stage: str  # what is being done
    share: float  # of the whole run that is done, 0 to 1
    left: tuple[float, float] | None  # least and most seconds to the end
    federations: tuple[tuple[str, str], ...]  # that have begun, the newest last: key, and what it is called
    chosen: str  # key of the one that is shown
    report: str  # where the report will be


@dataclass(frozen=True)
class View:
    """What is to be seen at one moment."""

    facts: Facts | None  # None before there are any
    folder: Path | None  # of the hub that is shown
    simulated: Simulated | None = None
    read: float = 0.0  # time.time()
    trouble: str = ""  # why there is nothing newer


class Source(Protocol):
    """Where a page comes from."""

    def look(self, wanted: str) -> View:
        """Read it anew.

        Args:
            wanted: of several federations, the one that is asked for; "" is the newest.

        Raises:
            OSError, ValueError, LookupError, TypeError: a file is just being replaced, or is damaged.
        """
        ...


class HubSource:
    """The hub of `sst hub`."""

    def __init__(self, office: Office) -> None:
        """See that there is one.

        Raises:
            RunError: the folder is no hub's.
            ConfigError: hub.toml is not as it should be.
        """
        self._office, self._name = office, office.settings.name
        self._recorded = events.Recorded(office.folder)

    def look(self, wanted: str) -> View:
        """See `Source`."""
        recorded = self._recorded.read()
        found = facts(self._office.folder, status(self._office, recorded), recorded, self._name)
        return View(found, self._office.folder)


class Latest:
    """What a source said last, read again when it is no longer fresh; what cannot be read is as it was before."""

    def __init__(self, source: Source, clock: Callable[[], float] = time.monotonic) -> None:
        """Read nothing yet."""
        self._source, self._clock = source, clock
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[float, View]] = {}

    def view(self, wanted: str = "") -> View:
        """Give what there is to be seen."""
        with self._lock:
            now = self._clock()
            at, before = self._kept.get(wanted, (-FRESH, View(None, None)))
            if now - at < FRESH:
                return before
            try:
                found = replace(self._source.look(wanted), read=time.time())
            except (OSError, ValueError, LookupError, TypeError, RunError) as error:
                found = replace(before, trouble=shown(f"{type(error).__name__}: {error}"))
            if wanted in self._kept or len(self._kept) < 100:
                self._kept[wanted] = (now, found)
            return found


def application(source: Source, names: frozenset[str] = frozenset()) -> "Starlette":
    """Make the web application.

    Args:
        source: of what is shown.
        names: by which this machine may be called, beside its addresses and localhost.
    """
    from starlette.applications import Starlette
    from starlette.responses import HTMLResponse, PlainTextResponse, Response
    from starlette.routing import Route

    latest, template = Latest(source), _templates().get_template("dashboard.html")
    folder = Path(__file__).parent / "templates"

    def page(request: "Request") -> Response:
        view = latest.view(request.query_params.get("of", ""))
        charts = phase_charts(view.facts.losses) if view.facts else []
        return HTMLResponse(template.render(view=view, facts=view.facts, charts=charts, **_SIZES))

    def as_json(request: "Request") -> Response:
        view = latest.view(request.query_params.get("of", ""))
        return Response(json.dumps(_plain(view)), media_type="application/json")

    def file(request: "Request") -> Response:
        name = request.path_params["name"]
        if name not in FILES:
            return PlainTextResponse("not found", 404)
        return Response((folder / name).read_bytes(), media_type=FILES[name])

    def picture(request: "Request") -> Response:
        view = latest.view(request.query_params.get("of", ""))
        known = {one.file for one in view.facts.pictures} if view.facts else set()
        name = request.path_params["name"]
        if view.folder is None or name not in known or "/" in name:
            return PlainTextResponse("not found", 404)
        try:
            return Response((view.folder / FOLDER / name).read_bytes(), media_type="image/png")
        except OSError:
            return PlainTextResponse("not found", 404)

    def icon(request: "Request") -> Response:
        return Response(status_code=204)

    places = {"/": page, "/status.json": as_json, "/files/{name}": file, "/generated/{name}": picture}
    places["/favicon.ico"] = icon
    app = Starlette(routes=[Route(path, made, methods=["GET"]) for path, made in places.items()])
    app.add_middleware(_Guarded, names=names)
    return app


class _Guarded:
    """Turns away what calls this machine by a strange name, and puts `HEADERS` on every answer."""

    def __init__(self, app: "ASGIApp", names: frozenset[str]) -> None:
        self._app, self._names = app, names

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        from starlette.datastructures import Headers, MutableHeaders
        from starlette.responses import PlainTextResponse

        async def guarded(message: "Mapping[str, object]") -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)  # type: ignore[arg-type]
            await send(message)  # type: ignore[arg-type]

        app = self._app
        if not own_name(Headers(scope=scope).get("host", ""), self._names):
            app = PlainTextResponse("this page answers to this machine's own names alone", 421)
        await app(scope, receive, guarded)


def own_name(host: str, names: frozenset[str] = frozenset()) -> bool:
    """Say whether a Host header is an address, localhost, or one of some names: nobody else's name leads here."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    name = name.strip("[]").lower()
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name == "localhost" or name in names
    return True


def listen(host: str, port: int, option: str = "--port") -> socket.socket:
    """Take a port.

    Args:
        host: an address or a name of this machine.
        port: 0 takes any that is free.
        option: by which the user chose the port, for the error.

    Raises:
        RunError: it is taken, or the machine has no such address.
    """
    own = None
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        own = socket.socket(family, kind, protocol)
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        own.bind(place)
        own.listen(64)
    except (OSError, UnicodeError) as error:
        if own is not None:
            own.close()
        why = getattr(error, "strerror", None) or error
        raise RunError(f"no page at {host}, port {port}: {why}; give another {option}, or {option} 0") from error
    return own


def address(own: socket.socket, host: str) -> str:
    """Give the address of the page, for a browser."""
    return f"http://{f'[{host}]' if ':' in host else host}:{own.getsockname()[1]}/"


def is_loopback(host: str) -> bool:
    """Say whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def own_names(host: str) -> frozenset[str]:
    """Give the names by which others may call this machine, where it listens to them."""
    if is_loopback(host):
        return frozenset()
    return frozenset(name.lower() for name in (host, socket.gethostname(), socket.getfqdn()))


def serve(source: Source, own: socket.socket, names: frozenset[str] = frozenset(), parent: int = 0) -> None:
    """Serve the page until Ctrl-C or SIGTERM, or until the process `parent`, if there is one, has ended."""
    import uvicorn

    how = {"log_config": None, "access_log": False, "server_header": False, "proxy_headers": False, "lifespan": "off"}
    app = application(source, names)
    server = uvicorn.Server(uvicorn.Config(app, ws="none", timeout_graceful_shutdown=1, **how))  # type: ignore[arg-type]

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        server.should_exit = True

    if parent:
        threading.Thread(target=follow, daemon=True).start()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # uvicorn ends in peace, then raises what it was sent
    try:
        server.run(sockets=[own])
    except KeyboardInterrupt:
        return


_SIZES = {"WIDTH": WIDTH, "HEIGHT": HEIGHT, "LEFT": LEFT, "RIGHT": RIGHT, "TOP": TOP, "BOTTOM": BOTTOM}


def _plain(view: View) -> dict[str, object]:
    """Give a view for programs: `status` is what `sst hub status --json` gives."""
    plain: dict[str, object] = {"read": view.read, "trouble": view.trouble}
    plain["facts"] = asdict(view.facts) if view.facts else None
    plain["simulated"] = asdict(view.simulated) if view.simulated else None
    return plain


def _clock(moment: float) -> str:
    """Say a time, with its day if that is not today."""
    then = time.localtime(moment)
    today = time.strftime("%F", then) == time.strftime("%F")
    return time.strftime("%H:%M:%S" if today else "%F %H:%M:%S", then)


def _templates() -> "jinja2.Environment":
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    filters = {"ago": ago, "size": size_text, "span": span, "lasting": lasting, "clock": _clock, "shown": shown}
    environment.filters |= filters
    return environment
