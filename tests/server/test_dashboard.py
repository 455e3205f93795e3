"""The live page of a hub: what it shows, to whom, and that nothing can be changed by it; in a browser, too."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

import sst
from browser import BROWSER, DRIVER, Browser, browser
from configs.errors import RunError
from configs.schema import load
from server import events
from server.charts import ticks
from server.dashboard import FOLDER, HubSource, Latest, application, listen, own_name
from server.drawn import NAME
from server.office import Office, Settings, write_settings
from server.pulse import Pulse
from server.status import status

HOSTILE = '<img src=x onerror="document.title=1">\x1b[2J</table><script>document.title=2</script>'
HERE = "http://127.0.0.1:8765"


@pytest.fixture
def office(tmp_path: Path) -> Office:
    """A hub's folder with two admitted sites and no run yet, in a path with a space."""
    made = Office(tmp_path / "a hub")
    for site in ("north", "south"):
        made.key(site).parent.mkdir(parents=True, exist_ok=True)
        made.key(site).write_text(f"key of {site}")
    (made.folder / "hub.toml").write_text(write_settings(Settings("trial", "hub.example.org", 8443)))
    (made.folder / "experiment.json").write_text(load("tiny").to_json())
    Pulse(made).beat()
    return made


def begin(office: Office, phase: str, number: int) -> None:
    """Write that a round began."""
    events.tell(office.folder, "round.started", "sst", {"phase": phase, "round": number})


def brought(office: Office, phase: str, number: int, loss: float, failed: dict[str, str] | None = None) -> None:
    """Write that a round is finished, with what it brought."""
    sites = [site for site in ("north", "south") if site not in (failed or {})]
    traffic = [{"site": site, "down": 1000, "up": 500} for site in sites]
    series = {site: {"total": (loss, loss / 2)} for site in sites}
    values = {"phase": phase, "round": number, "series": series, "failed": failed or {}, "traffic": traffic}
    events.tell(office.folder, "round.finished", "sst", values)


def joined(office: Office) -> None:
    """Write that both sites joined."""
    begin(office, "join", 1)
    sites = {"north": {"level": "networks", "scans": 8}, "south": {"level": "statistics", "scans": 9}}
    values = {"phase": "join", "round": 1, "sites": sites, "failed": {}, "traffic": []}
    events.tell(office.folder, "round.finished", "sst", values)


def answers(office: Office, *asked: tuple[str, str, dict[str, str]]) -> list[httpx.Response]:
    """Ask the application, request after request: method, path, headers."""

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=application(HubSource(office)))
        async with httpx.AsyncClient(transport=transport, base_url=HERE) as client:
            return [await client.request(method, path, headers=headers) for method, path, headers in asked]

    return asyncio.run(ask())


def page(office: Office) -> str:
    """Get the page."""
    (found,) = answers(office, ("GET", "/", {}))
    assert found.status_code == 200
    return found.text


class Text(HTMLParser):
    """The text of a page, and the tags in it."""

    def __init__(self, page: str) -> None:
        """Read it."""
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep it."""
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        """Keep it."""
        self.words.append(data)


def said(page: str) -> str:
    """Give the text of a page, in one line."""
    return " ".join(" ".join(Text(page).words).split())


def test_it_shows_what_sst_hub_status_says(office: Office, capsys: pytest.CaptureFixture[str]) -> None:
    """State, phase, round, time left, and of each site state, rounds and last failure: the same facts, not others."""
    joined(office)
    begin(office, "register", 1)
    brought(office, "register", 1, 1.0, {"north": "too-few"})
    begin(office, "register", 2)
    assert sst.run(["hub", "status", str(office.folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (found,) = answers(office, ("GET", "/status.json", {}))
    assert found.json()["facts"]["status"] == told
    assert (told["phase"], told["round"], told["sites"][0]["last"]) == ("register", 2, "too-few")
    text = said(page(office))
    assert "trial: running" in text and "Phase register Round 2 of 2" in text and "1 of 2" in text
    assert re.search(r"north taking part \d s ago join 1 1 – 0 B 0 B networks too-few", text)
    assert re.search(r"south taking part \d s ago register 1 2 – 1.0 kB 500 B statistics –", text)
    assert "To sites 1.0 kB From sites 500 B" in text
    assert re.search(r"Reason north \d\d:\d\d:\d\d register 1 too-few", text)


def test_the_time_left_is_a_range_of_what_rounds_took(office: Office) -> None:
    """From as fast as the quicker to as fast as the slower of the last rounds; `sst hub status` says it, too."""
    joined(office)
    with (office.folder / events.NAME).open("a") as file:
        for number, (start, end) in enumerate([(0.0, 60.0), (60.0, 180.0)], start=1):
            about = {"phase": "register", "round": number, "series": {}, "failed": {}, "traffic": []}
            file.write(json.dumps({"time": start, "event": "round.started", **about}) + "\n")
            file.write(json.dumps({"time": end, "event": "round.finished", **about}) + "\n")
    rest = sum(load("tiny").phases.rounds(name) for name in ("style", "joint", "flow_codes", "segment", "adapt"))
    assert status(office).between == (rest * 60.0, rest * 120.0)
    assert f"Training left {rest} to {2 * rest} min" in said(page(office))


def test_a_hub_that_has_not_begun_is_waited_for(office: Office) -> None:
    """No round, no loss, no image: the page says so of each."""
    (office.folder / "experiment.json").unlink()
    text = said(page(office))
    assert "trial: waits for its first round" in text and "No round of training is finished yet" in text
    assert "the hub generates images from the phase segment on" in text and "None so far" in text


def test_losses_and_dice_are_drawn_and_told(office: Office) -> None:
    """A curve for each site, with numbers on its axes, the same as a table; Dice as the sites found it, or why not."""
    joined(office)
    for number, loss in ((1, 0.8), (2, 0.4)):
        begin(office, "register", number)
        brought(office, "register", number, loss)
    rows = [
        {"style": "north", "site": "north", "scans": 5, "dice": {"a": 0.5, "b": 0.75}, "error": ""},
        {"style": "north", "site": "south", "scans": 0, "dice": {}, "error": "declined"},
    ]
    (office.folder / "cross-site.json").write_text(json.dumps(rows))
    html = page(office)
    assert html.count("<polyline points=") == 2 + 2  # curves, and their names
    assert 'aria-label="Loss total of the phase register over 4 steps; latest: north 0.2, south 0.2"' in html
    assert "total, north 4 0.8 0.2 0.2" in said(html)
    assert "north north 5 62.5" in said(html) and "north south 0 declined" in said(html)


def test_words_of_a_site_are_text_and_nothing_else(office: Office) -> None:
    """Names, codes, losses and styles with markup make no element and no attribute, and steer no terminal."""
    clean = Text(page(office))
    joined(office)
    begin(office, "register", 1)
    series = {HOSTILE: {HOSTILE: (1.0, 0.5)}}
    values = {"phase": "register", "round": 1, "series": series, "failed": {"north": HOSTILE}, "traffic": []}
    events.tell(office.folder, "round.finished", "sst", values)
    events.tell(office.folder, "site.quarantined", "sst", {"site": HOSTILE, "phase": "register", "why": HOSTILE})
    row = {"style": HOSTILE, "site": HOSTILE, "scans": 1, "dice": {}, "error": HOSTILE}
    (office.folder / "cross-site.json").write_text(json.dumps([row]))
    (office.folder / FOLDER).mkdir()
    drawn = [{"style": HOSTILE, "file": "a.png", "round": 1, "pairs": 2}]
    (office.folder / FOLDER / NAME).write_text(json.dumps(drawn))
    html = page(office)
    found = Text(html)
    drawing = {"svg", "g", "title", "polyline", "circle", "line", "text", "img", "figure", "figcaption"}
    told = {"table", "caption", "thead", "tbody", "tr", "th", "td", "ul", "li", "b", "h3", "details", "summary"}
    assert found.tags - clean.tags <= drawing | told | {"ol", "progress"}
    assert "onerror" not in found.attributes
    assert html.count("<script") == 1 and "\x1b" not in html and "onerror=" in said(html)


def test_nothing_can_be_changed(office: Office) -> None:
    """It answers GET alone, and leaves the folder as it was."""
    joined(office)
    before = {path: path.stat().st_mtime_ns for path in office.folder.rglob("*")}
    paths = ("/", "/status.json", "/files/dashboard.js", "/generated/a.png")
    methods = ("POST", "PUT", "DELETE", "PATCH", "OPTIONS")
    refused = answers(office, *((method, path, {}) for path in paths for method in methods))
    assert {one.status_code for one in refused} == {405}
    answers(office, *(("GET", path, {}) for path in paths))
    assert {path: path.stat().st_mtime_ns for path in office.folder.rglob("*")} == before


def test_every_answer_has_the_headers(office: Office) -> None:
    """No script but its own, nothing of another host, in no frame, kept nowhere, and no cookie."""
    asked = [("GET", path, {}) for path in ("/", "/status.json", "/files/dashboard.css", "/nowhere")]
    for one in answers(office, *asked, ("POST", "/", {}), ("GET", "/", {"host": "evil.example"})):
        policy = one.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy and one.headers["x-content-type-options"] == "nosniff"
        assert one.headers["cache-control"] == "no-store" and "set-cookie" not in one.headers
    html = page(office)
    assert not re.search(r"<script(?! src=\"files/)|\son\w+=|\sstyle=|<style|//", html.partition("<body>")[2])
    assert "http" not in html.replace('http-equiv="refresh"', "")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:1", "evil.example:8765", "", "localhost.x"])
def test_a_strange_name_gets_nothing(office: Office, host: str) -> None:
    """A page of somebody else, whose name was made to lead to this machine, reads nothing (DNS rebinding)."""
    joined(office)
    for one in answers(office, ("GET", "/", {"host": host}), ("GET", "/status.json", {"host": host})):
        assert one.status_code == 421 and "north" not in one.text


def test_own_names_are_addresses_localhost_and_those_that_are_given() -> None:
    """By any address, on any port, of both families."""
    assert all(own_name(host) for host in ("127.0.0.1:8765", "localhost", "LOCALHOST:1", "[::1]:8765", "192.0.2.7"))
    assert own_name("hub.lan:8765", frozenset({"hub.lan"})) and not own_name("other.lan", frozenset({"hub.lan"}))


def test_files_that_are_being_replaced_leave_what_was_shown(office: Office) -> None:
    """Half a line is passed over; half a file leaves the page as it was, says so, and is read when it is whole."""
    joined(office)
    now = [0.0]
    latest = Latest(HubSource(office), clock=lambda: now[0])
    assert latest.view().facts is not None
    with (office.folder / events.NAME).open("a") as file:
        file.write('{"time": 1.0, "event": "round.sta')
    now[0] += 10
    assert latest.view().trouble == ""
    begin(office, "register", 1)  # mends the line
    whole = (office.folder / "experiment.json").read_text()
    (office.folder / "experiment.json").write_text(whole[: len(whole) // 2])
    now[0] += 10
    broken = latest.view()
    assert broken.facts is not None and broken.facts.status.phase == "join" and broken.trouble
    (office.folder / "experiment.json").write_text(whole)
    now[0] += 10
    mended = latest.view()
    assert mended.facts is not None and mended.facts.status.phase == "register" and not mended.trouble


def test_only_pictures_that_the_hub_made_are_given_out(office: Office) -> None:
    """No path leads out of the folder of generated images, whatever is asked for or stands in its list."""
    secret = office.folder / "secret.png"
    secret.write_bytes(b"not for you")
    folder = office.folder / FOLDER
    folder.mkdir()
    (folder / "a.png").write_bytes(b"a picture")
    (folder / "other.png").write_bytes(b"not listed")
    names = ("a.png", "../secret.png", "b.png")
    (folder / NAME).write_text(json.dumps([{"style": "n", "file": n, "round": 1, "pairs": 2} for n in names]))
    paths = ("a.png", "other.png", "b.png", "..%2Fsecret.png", "%2e%2e/secret.png", "../hub.toml", "generated.json")
    found = answers(office, *(("GET", f"/generated/{path}", {}) for path in paths))
    assert [one.status_code for one in found] == [200, 404, 404, 404, 404, 404, 404]
    assert found[0].content == b"a picture" and found[0].headers["content-type"] == "image/png"


def test_a_folder_that_is_no_hub_and_a_port_that_is_taken_are_one_line(
    office: Office, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, before anything is served."""
    assert sst.run(["hub", "dashboard", str(tmp_path / "nothing")]) == 2
    assert "is not a hub's folder" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert sst.run(["hub", "dashboard", str(office.folder), "--port", str(port)]) == 2
        err = capsys.readouterr().err
        assert f"port {port}" in err and "another --port" in err and err.count("\n") == 1
    with pytest.raises(RunError):
        listen("192.0.2.1", 0)  # an address that no machine has


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.0312, 0.0351), (3.0, 3.0), (0.0, 0.0), (-2e-9, 7e5), (1, 4)])
def test_numbers_of_an_axis_are_round_and_cover_it(low: float, high: float) -> None:
    """Few of them, evenly spread, from below to above."""
    found = ticks(low, high, 3)
    near = 1e-8 * (found[1] - found[0])
    assert 2 <= len(found) <= 6 and found[0] <= low + near and found[-1] >= high - near
    gaps = {f"{b - a:.6g}" for a, b in zip(found, found[1:], strict=False)}
    assert len(gaps) == 1
    assert all(value == int(value) for value in ticks(low, high, 3, whole=True))


@pytest.fixture
def served(office: Office) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The command at work on the hub, and the address that it printed."""
    command = [sys.executable, "-m", "sst", "hub", "dashboard", str(office.folder), "--port", "0"]
    root = Path(sst.__file__).parent
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(root)}
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    yield line.split()[0], process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_its_address_and_ends_when_asked(
    served: tuple[str, subprocess.Popen[str]], how: signal.Signals
) -> None:
    """On loopback, with exit code 0, and not a word of an error."""
    address, process = served
    assert address.startswith("http://127.0.0.1:")
    assert "trial" in httpx.get(address, trust_env=False).text
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")


@pytest.fixture
def window(tmp_path: Path) -> Iterator[Browser]:
    """A browser; skips without one."""
    if not (BROWSER and DRIVER):
        pytest.skip("no chromium and chromedriver on this machine")
    with browser(tmp_path) as found:
        yield found


def test_a_browser_follows_a_run(served: tuple[str, subprocess.Popen[str]], office: Office, window: Browser) -> None:
    """Rounds, losses, bytes and refusals come by themselves, without an error, and hostile words run nothing."""
    address, process = served
    window.open(address)
    assert "waits for its first round" in window.run("return document.querySelector('h1').textContent")
    joined(office)
    begin(office, "register", 1)
    window.wait("return document.querySelector('.now')?.textContent.includes('1 of 2')")
    brought(office, "register", 1, 0.8, {"north": HOSTILE})
    begin(office, "register", 2)
    window.wait("return document.querySelector('.now')?.textContent.includes('2 of 2')")
    assert window.run("return document.querySelectorAll('.chart polyline').length") == 1
    assert "onerror" in window.run("return document.getElementById('refusals').textContent")
    window.run("document.querySelector('details details summary').click()")
    window.run("document.querySelector('details details summary').focus()")
    brought(office, "register", 2, 0.4)
    window.wait("return document.querySelectorAll('.chart polyline').length === 2")
    assert window.run("return document.activeElement.textContent") == "Values of register"
    assert window.run("return document.querySelector('details details').open")
    assert window.run("return document.title") == "trial: live"
    for width in (360, 390, 1280):
        for dark in (False, True):
            window.look(width, dark)
            assert window.run("return document.documentElement.scrollWidth") <= width
    assert window.said() == []
    process.kill()
    window.wait("return !document.getElementById('gone').hidden")
    assert "Nobody has answered" in window.run("return document.getElementById('gone').textContent")
