"""A loopback proxy that makes the network between a reporter and its tracker's real HTTP server fail, on demand.

    reporter ──► Proxy ──► server
                   │
                   ├─ delay     each request goes on so many seconds after it came
                   ├─ drop      a request is read, and nothing ever comes back
                   ├─ refuse    nobody listens on the port, and open connections are cut
                   ├─ reset     the server did its work, its answer breaks off with a RST
                   └─ answer    the proxy answers with a status of its own; the server never sees the request

A fault applies to each request that comes after it was set, also on connections that clients keep open. Requests are
told apart by their Content-Length or chunks; one that comes before the answer to the last (pipelining) is not foreseen.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

HOST = "127.0.0.1"
_RST = struct.pack("ii", 1, 0)  # SO_LINGER: on, for no time at all

T = TypeVar("T")


@dataclass
class _Fault:
    """What happens to requests from now on.

    Attributes:
        times: To how many of them; None: to all.
        over: Set when somebody sets another fault, or none.
    """

    kind: Literal["none", "delay", "drop", "refuse", "reset", "answer"] = "none"
    seconds: float = 0.0
    status: int = 0
    retry_after: int | None = None
    times: int | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def answer_to(self, request: bytes) -> bytes:
        """The answer that doesn't come from the server."""
        phrase = HTTPStatus(self.status).phrase
        head = [f"HTTP/1.1 {self.status} {phrase}", "Content-Type: text/plain", f"Content-Length: {len(phrase)}"]
        if self.retry_after is not None:
            head.append(f"Retry-After: {self.retry_after}")
        return "\r\n".join([*head, "", "" if request.startswith(b"HEAD ") else phrase]).encode()


class Proxy:
    """Forwards HTTP to a server on this machine, until it is told to fail.

    Example:
        ```python
        with Proxy(server_port) as proxy, runcast.start_run({"mlflow": {"tracking_uri": proxy.url}}) as run:
            proxy.answer(429, retry_after=1, times=3)
            run.log({"loss": 0.5})
        assert proxy.struck == 3
        ```

    Args:
        target_port: Where the server listens on 127.0.0.1; it need not be there yet.

    Attributes:
        port: Where the proxy listens, also after `refuse`.
        struck: Requests that a fault met, delayed ones included, and connections that `refuse` cut. Connections that
            were refused can't be counted: nobody is there to see them.
        passed: Requests that the server got.
    """

    def __init__(self, target_port: int) -> None:
        self.struck = 0
        self.passed = 0
        self._target = target_port
        self._fault = _Fault()
        self._listener: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        # Bound and never listening: while the proxy refuses, nobody else gets the port.
        self._reserved = _bound(0)
        self.port: int = self._reserved.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="runcast-proxy", daemon=True)
        self._thread.start()
        self._do(self._listen())

    @property
    def url(self) -> str:
        """Its address, without a path."""
        return f"http://{HOST}:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Cuts all connections and gives the port back. A second call does nothing."""
        if not self._loop.is_closed():
            self._do(self._end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._reserved.close()

    # -- faults: each returns when it is in force ------------------------------------------------------------------

    def heal(self) -> None:
        """From now on all is well. Connections whose request was dropped are closed, as by a server that restarts."""
        self._do(self._set(_Fault()))

    def delay(self, seconds: float, times: int | None = None) -> None:
        """A request goes on to the server so many seconds after it came: a line with that round trip time.

        Opening a connection takes no longer than before, which favours clients that open many.

        Args:
            times: How many requests this happens to, here and below; then all is well. Default: until it is changed.
        """
        self._do(self._set(_Fault("delay", seconds=seconds, times=times)))

    def drop(self, times: int | None = None) -> None:
        """A request is read and never answered; its connection stays open until the fault is changed."""
        self._do(self._set(_Fault("drop", times=times)))

    def refuse(self) -> None:
        """Open connections are cut, and new ones refused, until the fault is changed; the port stays the same."""
        self._do(self._set(_Fault("refuse")))

    def reset(self, times: int | None = None) -> None:
        """The server handles a request, and its answer breaks off in the middle: the client can't know that it did."""
        self._do(self._set(_Fault("reset", times=times)))

    def answer(self, status: int, retry_after: int | None = None, times: int | None = None) -> None:
        """A request is answered with this status, and doesn't reach the server.

        Args:
            retry_after: Seconds, as the header Retry-After.

        Raises:
            ValueError: HTTP has no such status.
        """
        self._do(self._set(_Fault("answer", status=HTTPStatus(status), retry_after=retry_after, times=times)))

    # -- the listening socket --------------------------------------------------------------------------------------

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _set(self, fault: _Fault) -> None:
        self._fault, last = fault, self._fault
        if fault.kind == "refuse":
            await self._stop_listening()
            self.struck += len(self._connections)
            self._cut_all()
        elif self._listener is None:
            await self._listen()
        last.over.set()

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._serve, sock=_bound(self.port))

    async def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _end(self) -> None:
        await self._stop_listening()
        self._cut_all()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _cut_all(self) -> None:
        for connection in self._connections:
            connection.close()

    # -- one connection --------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self._connections.add(client)
        server = _Server(self._target, client)
        try:
            while request := await _read_request(reader):
                fault = self._meet()
                if fault.kind == "answer":
                    client.write(fault.answer_to(request))
                    continue
                if fault.kind == "drop":
                    await self._until_changed(fault)
                    break
                if fault.kind == "delay":
                    await self._until_changed(fault, fault.seconds)
                    if client.is_closing():  # cut in the meantime
                        break
                await server.send(request, reset=fault.kind == "reset")
                self.passed += 1
        except (OSError, EOFError, asyncio.CancelledError):  # one side, or the proxy, is gone: nobody need wait
            pass
        finally:
            self._connections.discard(client)
            server.close()
            client.close()

    def _meet(self) -> _Fault:
        """The fault that the next request meets."""
        fault = self._fault
        if fault.kind == "none":
            return fault
        if fault.times is not None:
            if fault.times == 0:
                return _Fault()
            fault.times -= 1
        self.struck += 1
        return fault

    @staticmethod
    async def _until_changed(fault: _Fault, seconds: float | None = None) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(fault.over.wait(), seconds)


class _Server:
    """The server's side of one client's connection, opened when the first request needs it."""

    def __init__(self, port: int, client: asyncio.StreamWriter) -> None:
        self._port = port
        self._client = client
        self._writer: asyncio.StreamWriter | None = None
        self._relay: asyncio.Task[None] | None = None
        self._reset = False

    async def send(self, request: bytes, *, reset: bool) -> None:
        """Sends a request; what comes back goes to the client by itself, or breaks off in the middle."""
        if self._writer is None:
            reader, self._writer = await asyncio.open_connection(HOST, self._port)
            self._relay = asyncio.create_task(self._relay_answers(reader))
        self._reset = reset
        self._writer.write(request)
        await self._writer.drain()

    async def _relay_answers(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                if self._reset:
                    self._client.write(data[: len(data) // 2])
                    await self._client.drain()
                    self._client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
                    self._client.transport.abort()
                    return
                self._client.write(data)
                await self._client.drain()
        self._client.close()

    def close(self) -> None:
        if self._relay is not None:
            self._relay.cancel()
        if self._writer is not None:
            self._writer.close()


# -- HTTP/1.1 ----------------------------------------------------------------------------------------------------------


async def _read_request(reader: asyncio.StreamReader) -> bytes:
    """The next request as it came; empty when the client is through.

    Raises:
        EOFError: The client left in the middle of it.
    """
    line = await reader.readline()
    if not line:
        return b""
    head = [line]
    headers: dict[bytes, bytes] = {}
    while (line := await _line(reader)).strip():
        head.append(line)
        name, _, value = line.partition(b":")
        headers[name.strip().lower()] = value.strip().lower()
    head.append(line)
    if headers.get(b"transfer-encoding") == b"chunked":
        return b"".join(head) + await _chunks(reader)
    return b"".join(head) + await reader.readexactly(int(headers.get(b"content-length", b"0")))


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    parts = []
    size = None
    while size != 0:
        line = await _line(reader)
        size = int(line.split(b";")[0], 16)
        parts += [line, await reader.readexactly(size + 2) if size else b""]
    while (line := await _line(reader)).strip():  # trailers
        parts.append(line)
    return b"".join([*parts, line])


async def _line(reader: asyncio.StreamReader) -> bytes:
    line = await reader.readline()
    if not line.endswith(b"\n"):
        raise EOFError("the request breaks off")
    return line


def _bound(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((HOST, port))
    return bound
