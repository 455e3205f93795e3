"""A bad line between a site and its hub, in this process: delay, a limit of bytes, loss as TCP shows it, and cuts.

Kernels without `netem` have nothing of the kind. What is lost on a line comes later over TCP: the bytes behind a lost
segment wait for as long as it takes to be sent again.
"""

import asyncio
import random
import threading
import time
from contextlib import suppress
from types import TracebackType

SEGMENT = 1460  # bytes of a TCP segment on Ethernet
RESEND = 0.3  # seconds: a round trip of 0.2 s, and the 0.1 s that it varies by


class Link:
    """A relay from a port of loopback to another."""

    def __init__(self, to: int, delay: float = 0.1, rate: float = 10e6 / 8, loss: float = 0.01, seed: int = 1) -> None:
        """Describe the line.

        Args:
            to: the port behind it.
            delay: seconds each way.
            rate: bytes a second each way, all connections together.
            loss: share of segments that have to be sent again.
            seed: of the loss.
        """
        self.to, self.delay, self.rate, self.loss = to, delay, rate, loss
        self.port = 0
        self.carried = 0  # bytes, both ways
        self._rng, self._cut_until = random.Random(seed), 0.0
        self._free = {"up": 0.0, "down": 0.0}  # when the line can take the next byte
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Link":
        """Listen."""
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Close."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def cut(self, seconds: float) -> None:
        """Let nothing through for some seconds."""
        self._cut_until = time.monotonic() + seconds

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._connect, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await self._wait_for_cut()
            await asyncio.sleep(2 * self.delay)  # the handshake
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.to)
            await asyncio.gather(self._pump("up", reader, far_writer), self._pump("down", far_reader, writer))

    async def _pump(self, way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        sender = asyncio.create_task(self._deliver(queue, writer))
        with suppress(OSError):
            while data := await reader.read(SEGMENT):
                self._free[way] = max(self._free[way], time.monotonic()) + len(data) / self.rate
                late = RESEND if self._rng.random() < self.loss else 0.0
                await queue.put((self._free[way] + self.delay + late, data))
                self.carried += len(data)
        await queue.put((0.0, b""))
        await sender

    async def _deliver(self, queue: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while (item := await queue.get())[1]:
                await asyncio.sleep(max(0.0, item[0] - time.monotonic()))
                await self._wait_for_cut()
                writer.write(item[1])
                await writer.drain()
        writer.close()

    async def _wait_for_cut(self) -> None:
        while (left := self._cut_until - time.monotonic()) > 0:
            await asyncio.sleep(left)
