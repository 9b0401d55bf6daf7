"""A proxy on the wire that fails on purpose, between a client and a real HTTP server.

`FaultProxy(endpoint)` listens at its own `endpoint` and hands every request on, but for those that
a `Fault` matches. Each fault counts in `fired` how often it did; the fixture `faulty` fails a test
in which one never fired. Request and answer pass unchanged otherwise, signatures stay valid.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
import threading
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

_BLOCK = 16384
_FOREVER = 3600


@dataclass
class Fault:
    """What goes wrong with which requests.

    `do`: `status` answers with `status` and the S3 error `code`, and the server never sees the
    request; `cut_up` and `cut_down` reset the connection after `after` bytes of the request's or
    the answer's body; `lose` lets the server finish and resets instead of answering; `stall` never
    answers; `freeze` stops after `after` bytes of the answer's body, `freeze_up` of the request's;
    `slow` passes the answer at `rate` bytes a second, `slow_up` the request; `corrupt` flips the
    last bit of the answer's body, `corrupt_up` that of the request's. A body that is too short for
    it lets the request pass, and does not count.
    """

    do: Literal[
        "status", "cut_up", "cut_down", "lose", "stall", "freeze", "freeze_up", "slow", "slow_up",
        "corrupt", "corrupt_up"
    ]  # fmt: skip
    method: str = ""
    matches: str = ""
    """A regular expression that is searched for in the request's path and query."""
    times: int = 1
    skip: int = 0
    """How many requests that match pass first."""
    status: int = 503
    code: str = "SlowDown"
    after: int = 0
    rate: int = 0
    seen: int = field(default=0, init=False)
    fired: int = field(default=0, init=False)

    def fires(self, method: str, target: str, length: int) -> bool:
        """Whether this request, with a body of `length` bytes, fails; counts it."""
        if self.method not in ("", method) or not re.search(self.matches, target):
            return False
        if (self.do in ("cut_up", "freeze_up") and length <= self.after) or (
            self.do == "corrupt_up" and not length
        ):
            return False
        self.seen += 1
        if self.seen <= self.skip or self.fired >= self.times:
            return False
        self.fired += 1
        return True


class Request(NamedTuple):
    """A request that came; the names of `headers` are in lower case."""

    method: str
    target: str
    headers: dict[str, str]


class FaultProxy:
    """Listens from its making until `close`. `requests` are all that it got."""

    def __init__(self, upstream: str) -> None:
        found = urlsplit(upstream)
        self._upstream = (found.hostname or "127.0.0.1", found.port or 80)
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.bytes_down = 0
        self._loop = asyncio.new_event_loop()
        listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, args=(listener,), daemon=True)
        self._thread.start()

    def arm(self, fault: Fault) -> Fault:
        """Have this go wrong from now on."""
        self.faults.append(fault)
        return fault

    def close(self) -> None:
        """Stop, and cut what is still open."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _serve(self, listener: socket.socket) -> None:
        async def start() -> None:
            await asyncio.start_server(self._connected, sock=listener)

        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(start())
        self._loop.run_forever()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()
        listener.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handle one request; the connection ends with it."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await self._request(reader, writer)
        writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").rstrip().split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines}
        length = int(headers.get("content-length", 0))
        self.requests.append(Request(method, target, headers))
        fault = next((f for f in self.faults if f.fires(method, target, length)), None)
        do = fault.do if fault else ""
        if headers.get("expect", "").lower() == "100-continue" and do != "status":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if fault and do == "status":
            await self._refuse(reader, writer, fault, 0 if "expect" in headers else length)
            return
        passed = [line for line in lines if not re.match(r"(?i)expect:|connection:", line)]
        up_reader, up_writer = await asyncio.open_connection(*self._upstream)
        try:
            up_writer.write("\r\n".join([first, *passed, "Connection: close"]).encode("latin-1"))
            up_writer.write(b"\r\n\r\n")
            left = length
            while left:
                block = await reader.read(min(left, _BLOCK))
                if not block:
                    return
                if fault and do == "cut_up" and length - left + len(block) > fault.after:
                    _reset(writer)
                    return
                left -= len(block)
                if fault and do == "freeze_up" and length - left > fault.after:
                    await asyncio.sleep(_FOREVER)
                if fault and do == "slow_up":
                    await asyncio.sleep(len(block) / fault.rate)
                if do == "corrupt_up" and not left:
                    block = block[:-1] + bytes([block[-1] ^ 1])
                up_writer.write(block)
                await up_writer.drain()
            if fault and do == "stall":
                await asyncio.sleep(_FOREVER)
            await self._answer(up_reader, writer, fault)
        finally:
            up_writer.close()

    async def _refuse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: Fault, length: int
    ) -> None:
        if length:
            await reader.readexactly(length)
        body = (
            f'<?xml version="1.0"?><Error><Code>{fault.code}</Code>'
            "<Message>as the test wants</Message></Error>"
        )
        writer.write(
            f"HTTP/1.1 {fault.status} Refused\r\nContent-Type: application/xml\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()
        )
        await writer.drain()

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: Fault | None
    ) -> None:
        do = fault.do if fault else ""
        head = await reader.readuntil(b"\r\n\r\n")
        if do in ("lose", "corrupt"):
            body = bytearray(await reader.read())
            if do == "lose":
                _reset(writer)
                return
            if body:
                body[-1] ^= 1
            elif fault:
                fault.fired -= 1
            writer.write(head + body)
            await writer.drain()
            return
        writer.write(head)
        passed = 0
        while block := await reader.read(_BLOCK):
            if fault and do == "cut_down" and passed + len(block) > fault.after:
                writer.write(block[: fault.after - passed])
                await writer.drain()
                await asyncio.sleep(0.05)  # a reset overtakes what was not read yet
                _reset(writer)
                return
            if fault and do == "freeze" and passed + len(block) > fault.after:
                await asyncio.sleep(_FOREVER)
            if fault and do == "slow":
                await asyncio.sleep(len(block) / fault.rate)
            writer.write(block)
            await writer.drain()
            passed += len(block)
            self.bytes_down += len(block)
        if fault and do in ("cut_down", "freeze"):
            fault.fired -= 1


def _reset(writer: asyncio.StreamWriter) -> None:
    """Cut a connection as a broken network does."""
    found: Any = writer.get_extra_info("socket")
    found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
