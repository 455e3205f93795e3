"""The app as the gate sees it: another process, confined, whose answer is a stranger's word."""

import json
import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from client import pipe
from client.gate import confine
from client.site import Site
from configs.errors import SstError
from sst_models.wire.exchange import PhaseRequest, SiteReply

SYSTEM = (
    *("/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc", "/sys", "/dev"),
    *(f"/proc/{name}" for name in ("self", "sys", "cpuinfo", "meminfo", "stat", "version", "filesystems", "driver")),
)
"""What any program reads: libraries, the processors' description, devices. No other process's memory or words."""

DEVICES = ("/dev/null", "/dev/zero", "/dev/shm", "/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools")

KEPT = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "FREESURFER_HOME", "FSLDIR")
"""Of the environment; and what begins with OMP_ or MKL_. Nothing else of it reaches the app."""

SCRATCH = "tmp-"
"""Begins the name of an app's folder for temporary files, in the state folder."""

PYTHON = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}

STORY = 200_000
"""Bytes of what the app prints that are kept."""

SPARE = 10_000_000
"""Bytes that an answer may have beside the arrays of the policy's `most_bytes`."""

CODES = frozenset({"config", "too-few", "data", "state", "site", "memory", "disk", "internal"})
"""What an app may say went wrong; any other word is "internal"."""


class AppFailedError(SstError):
    """The app did not answer; `code` says why in a word, the text is what it printed."""

    def __init__(self, code: str, story: str) -> None:
        super().__init__(f"the app failed ({code}):\n{story}")
        self.code = code if code in CODES else "internal"


@dataclass(frozen=True)
class Confined:
    """The approved app, asked by way of files and pipes."""

    app: Path  # its folder
    tools: tuple[str, ...] = ()  # folders that it may read and execute beside the system's, for a stripper
    confined: bool = True  # False: the app can do all that this user can; said by `sst site check`

    def __call__(self, request: PhaseRequest, site: Site) -> SiteReply:
        """Ask the app.

        Raises:
            AppFailedError: it ended without an answer, answered too much, or says that it failed.
            DataError: what it answered is no answer.
        """
        site.state.mkdir(parents=True, exist_ok=True)
        _tidy(site.state)
        scratch = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=site.state))
        try:
            data, story, code = self._run(request, site, scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        if code or not data:
            raise AppFailedError("memory" if code == -9 else "internal", f"it ended with code {code}\n{story}")
        reply = pipe.read_reply(data)
        if reply.error:
            raise AppFailedError(reply.error, story)
        return replace(reply, site=request.site)

    def _run(self, request: PhaseRequest, site: Site, scratch: Path) -> tuple[bytes, str, int]:
        reader, writer = os.pipe()
        about = {
            "read": [*SYSTEM, *self._readable(request, site)],
            "write": [*DEVICES, *_gpus(), str(site.state)],
            "app": str(self.app),
            "reply": writer,
            "confined": self.confined,
        }
        with tempfile.TemporaryFile() as asked:
            asked.write(pipe.write_request(request, site))
            asked.seek(0)
            process = subprocess.Popen(
                [sys.executable, "-P", "-s", confine.__file__, json.dumps(about)],
                stdin=asked,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(writer,),
                cwd=scratch,
                env=_environment(scratch),
                start_new_session=True,
            )
        os.close(writer)
        assert process.stdout is not None
        story: list[bytes] = []
        listener = threading.Thread(target=_listen, args=(process.stdout, story), daemon=True)
        listener.start()
        data = _answer(reader, process, site.policy.most_bytes + SPARE)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with what it may have left running
        code = process.wait()
        listener.join(5.0)
        process.stdout.close()
        return data, b"".join(story).decode(errors="replace"), code

    def _readable(self, request: PhaseRequest, site: Site) -> Iterator[str]:
        """Give what this request may read beside the system: the app, Python and, to prepare them, the scans."""
        yield from (str(self.app), sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parent))
        yield from self.tools
        if request.phase != "join":
            return
        if site.splits:
            yield str(site.splits)
        for folder in site.data:
            yield str(folder)
            yield str(folder.resolve().parent / "splits.tsv")
            yield from _targets(folder)
        words = shlex.split(site.preparation.stripping.command)
        if words and (tool := shutil.which(words[0])):
            yield str(Path(tool).resolve().parent)


def _tidy(state: Path) -> None:
    """Remove what apps that were killed left, a day ago or more."""
    for left in state.glob(f"{SCRATCH}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > 86_400:
                shutil.rmtree(left, ignore_errors=True)


def _targets(folder: Path) -> Iterator[str]:
    """Give where links in a folder of scans lead: scans may lie elsewhere."""
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(root) / name
            if path.is_symlink():
                yield str(path.resolve())


def _gpus() -> list[str]:
    return [str(path) for path in Path("/dev").glob("nvidia[0-9]*")]


def _environment(scratch: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in KEPT or name.startswith(("OMP_", "MKL_"))}
    return {**kept, "HOME": str(scratch), "TMPDIR": str(scratch), "USER": "site", **PYTHON}


def _answer(reader: int, process: subprocess.Popen[bytes], most: int) -> bytes:
    """Read an answer to its end, or to the end of the process; nothing if it is too long."""
    found: list[bytes] = []
    size = 0
    try:
        while size <= most:
            if select.select([reader], [], [], 0.2)[0]:
                chunk = os.read(reader, 1 << 20)
                if not chunk:
                    process.wait()
                    return b"".join(found)
                found.append(chunk)
                size += len(chunk)
            elif process.poll() is not None:
                return b"".join(found)
        return b""
    finally:
        os.close(reader)


def _listen(stream: IO[bytes], story: list[bytes]) -> None:
    """Keep the beginning of what the app prints, and read the rest, so that it is never held up."""
    left = STORY
    with suppress(OSError, ValueError):
        while chunk := stream.read1(65536) if hasattr(stream, "read1") else stream.read(65536):
            story.append(chunk[:left])
            left -= len(story[-1])
