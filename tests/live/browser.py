"""Chromium without a screen, driven by the WebDriver protocol (https://www.w3.org/TR/webdriver2/), for tests of pages.

Chromium and ChromeDriver are programs of the system: `apt-get install chromium chromium-driver`.
"""

import base64
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic",
)  # fmt: skip

PATIENCE = 60.0
"""Seconds until something that is awaited counts as never, unless a test says otherwise (`Browser.patience`)."""


class Browser:
    """One window."""

    def __init__(self, driver: str, folder: Path) -> None:
        """Open it, with a profile in `folder`; all that its console says is kept."""
        self.patience = PATIENCE
        self._opener = build_opener(ProxyHandler({}))
        self._at = driver
        options = {"binary": BROWSER, "args": [*FLAGS, f"--user-data-dir={folder}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self._at += f"/session/{self._ask('POST', '/session', {'capabilities': {'alwaysMatch': wanted}})['sessionId']}"

    def _ask(self, method: str, path: str, values: dict[str, Any] | None = None) -> Any:
        data = None if values is None else json.dumps(values).encode()
        request = Request(self._at + path, data, {"content-type": "application/json"}, method=method)
        with self._opener.open(request, timeout=PATIENCE) as answer:
            return json.load(answer)["value"]

    def command(self, name: str, **values: object) -> Any:
        """Send a command of Chromium's own (`Emulation.setDeviceMetricsOverride`)."""
        return self._ask("POST", "/goog/cdp/execute", {"cmd": name, "params": values})

    def look(self, width: int, dark: bool = False) -> None:
        """Be so wide, in pixels, with a light or a dark page."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.command("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, address: str) -> None:
        """Go to a page."""
        self._ask("POST", "/url", {"url": address})

    def run(self, script: str) -> Any:
        """Give what a function body returns in the page."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": []})

    def wait(self, script: str) -> Any:
        """Give what a function body returns as soon as that is true."""
        end = time.monotonic() + self.patience
        while not (found := self.run(script)):
            assert time.monotonic() < end, f"never: {script}"
            time.sleep(0.1)
        return found

    def said(self) -> list[str]:
        """Give what the console said since the last call."""
        return [f"{one['level']} {one['message']}" for one in self._ask("POST", "/se/log", {"type": "browser"})]

    def save(self, path: Path) -> None:
        """Save a picture of the whole page."""
        height = self.run("return document.documentElement.scrollHeight")
        width = self.run("return window.innerWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": min(height, 12000), "scale": 1}
        picture = self.command("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(picture["data"]))

    def close(self) -> None:
        """End it."""
        self._ask("DELETE", "")


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Give a window while the block runs; its profile is in `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (folder / "chromedriver.log").open("wb") as log:
        process = subprocess.Popen([str(DRIVER), f"--port={port}"], stdout=log, stderr=log)
    try:
        end = time.monotonic() + PATIENCE
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.05)
        window = Browser(f"http://127.0.0.1:{port}", folder / "profile")
        try:
            yield window
        finally:
            window.close()
    finally:
        process.terminate()
        process.wait(PATIENCE)
