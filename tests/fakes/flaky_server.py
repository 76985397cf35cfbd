"""A server on raw sockets that does to each connection what a script says: what proxies, crashes and cables do."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Deed = Callable[[socket.socket], None]
"""What happens to one connection once a whole request has come over it."""


def http_answer(status: int, body: bytes, *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 %d Whatever" % status, b"Content-Length: %d" % len(body), *headers, b"", body]
    return b"\r\n".join(lines)


def say(answer: bytes) -> Deed:
    """Answer, and close with the connection."""
    return lambda connection: connection.sendall(answer)


def reset(connection: socket.socket) -> None:
    """Drop the connection as a crash does: with a reset and no answer."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def hang_up(connection: socket.socket) -> None:
    """Close properly, with no answer."""


def be_silent(connection: socket.socket) -> None:
    """Say nothing until the client leaves."""
    while connection.recv(65536):
        pass


def trickle(connection: socket.socket) -> None:
    """Send an answer byte by byte for as long as anybody reads: each of them is prompt, the whole never ends."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    try:
        while True:
            connection.sendall(b"1\r\nx\r\n")
    except OSError:
        pass


class FlakyServer:
    """Takes one connection after the other; `requests` holds what came over each, up to the end of its body."""

    def __init__(self, listener: socket.socket, deeds: tuple[Deed, ...]) -> None:
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.requests: list[bytes] = []
        self._listener = listener
        self._deeds = deeds

    def run(self) -> None:
        for deed in self._deeds:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed by the test: the client wanted no more
            with connection:
                try:
                    self.requests.append(_request(connection))
                    deed(connection)
                except ConnectionError:
                    pass  # the client left in the middle, which is its right
        self._listener.close()


def _request(connection: socket.socket) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received:
        received += _some(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    while len(body) < (int(lengths[0]) if lengths else 0):
        body += _some(connection)
    return head + b"\r\n\r\n" + body


def _some(connection: socket.socket) -> bytes:
    if not (some := connection.recv(65536)):
        raise ConnectionResetError("left in the middle of a request")
    return some


@contextmanager
def flaky_server(*deeds: Deed) -> Iterator[FlakyServer]:
    """One connection for each of `deeds`; after the last the port is closed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = FlakyServer(listener, deeds)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield server
        finally:
            listener.close() if not thread.is_alive() else _unblock(listener)
            thread.join()


def _unblock(listener: socket.socket) -> None:
    """Make a pending `accept` return: closing alone does not on Linux."""
    with suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
