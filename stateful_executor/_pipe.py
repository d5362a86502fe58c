"""Requests and replies through a pipe of `multiprocessing`, between two processes of which either may die at any time.

Who waits for the other one is woken by what it sends, and by its end. The end of the pipe alone does not tell: others
may have inherited an end of it (siblings that were forked, what a task has started), and keep it open. So whoever waits
looks at the process as well: through a `pidfd`, which becomes ready when that ends, where there is one (Linux); else
through the sentinel of `multiprocessing`, which may be inherited in the same way, and hence once a second.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from multiprocessing.connection import wait
from struct import Struct
from typing import TYPE_CHECKING, TypeAlias

from ._wire import Buffer, Parts

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

Message: TypeAlias = "tuple[int, int, Parts]"  # of a request; a reply has zeros first

HEAD = Struct("<BIIQ")  # kind, key, number of parts after the first one, length of the first one
AT_ONCE = 1 << 16  # what is read, or joined to be written, in one go
MOST_BUFFERS = 512  # a system call takes no more than IOV_MAX, 1024


class Gone(Exception):  # as `queue.Empty`
    """The process at the other end has ended, or is about to."""


class Pipe:
    """One end, on a system whose pipes are file descriptors. Used by one thread only. Strictly private.

    `peer` becomes readable when the other process ends; `has_ended` is asked once a second unless that is `exact`.
    """

    def __init__(self, connection: Connection, peer: int, exact: bool, has_ended: Callable[[], bool]) -> None:
        self._connection = connection
        self._fd: int = connection.fileno()
        self._has_ended = has_ended
        self._timeout: int | None = None if exact else 1000  # milliseconds
        os.set_blocking(self._fd, False)
        self._readable = select.poll()
        self._readable.register(self._fd, select.POLLIN)
        self._readable.register(peer, select.POLLIN)
        self._writable = select.poll()
        self._writable.register(self._fd, select.POLLOUT)
        self._writable.register(peer, select.POLLIN)
        self._ended = select.poll()
        self._ended.register(peer, select.POLLIN)

    def peer_has_ended(self) -> bool:
        """Whether the other process has ended; it may be some time before an inexact answer is right."""
        return bool(self._ended.poll(0))

    def close(self) -> None:
        """Let the other end know."""
        self._connection.close()

    def send(self, kind: int, key: int, parts: Parts) -> None:
        """Send one message; `Gone` when nobody will read it."""
        first = parts[0]
        head = HEAD.pack(kind, key, len(parts) - 1, len(first))
        if len(parts) == 1 and len(first) < AT_ONCE:
            rest: list[Buffer] = [head + first]  # one copy costs less than one more buffer
        else:
            lengths = b"".join([len(part).to_bytes(8, "little") for part in parts[1:]])
            rest = [head + lengths, *parts]
        try:
            self._write_all(rest)
        except ConnectionError as exc:
            raise Gone from exc

    def _write_all(self, rest: list[Buffer]) -> None:
        while rest:
            self._write(rest)

    def _write(self, rest: list[Buffer]) -> None:
        """Write some of `rest`, which leaves that."""
        try:
            written = os.writev(self._fd, rest[:MOST_BUFFERS])
        except BlockingIOError:
            self._wait(self._writable)
            return
        done = 0
        for buffer in rest:
            if written < len(buffer):
                break
            written -= len(buffer)
            done += 1
        del rest[:done]
        if written:
            rest[0] = memoryview(rest[0])[written:]

    def receive(self) -> Message:
        """Wait for one message; `Gone` when there will be none."""
        data = self._read()
        while len(data) < HEAD.size:
            data += self._read()
        kind, key, more, length = HEAD.unpack_from(data)
        if not more and len(data) == HEAD.size + length:
            return kind, key, (memoryview(data)[HEAD.size :],)
        while len(data) < HEAD.size + 8 * more:
            data += self._read()
        begin = HEAD.size + 8 * more
        lengths = [length]
        lengths += [int.from_bytes(data[at : at + 8], "little") for at in range(HEAD.size, begin, 8)]
        view = memoryview(data)[begin:]
        parts: list[bytearray] = []
        for size in lengths:
            part = bytearray(size)  # of its own: what is made of it may keep it, and write to it
            there = min(size, len(view))
            part[:there] = view[:there]
            view = view[there:]
            self._read_into(memoryview(part)[there:])
            parts.append(part)
        return kind, key, parts

    def _read(self) -> bytes:
        while True:
            self._wait(self._readable)
            try:
                data = os.read(self._fd, AT_ONCE)
            except BlockingIOError:
                continue
            except ConnectionError as exc:
                raise Gone from exc
            if not data:
                raise Gone
            return data

    def _read_into(self, view: memoryview) -> None:
        while view:
            try:
                read = os.readv(self._fd, [view])
            except BlockingIOError:
                self._wait(self._readable)
                continue
            except ConnectionError as exc:
                raise Gone from exc
            if not read:
                raise Gone
            view = view[read:]

    def _wait(self, poll: select.poll) -> None:
        """Until the pipe is ready; `Gone` when the other process has ended, and nothing is left to be read."""
        while True:
            ready = poll.poll(self._timeout)
            if not ready and not self._has_ended():
                continue
            if all(fd != self._fd for fd, _ in ready):
                ready = poll.poll(0)  # once more: it may have written right before its end, between two looks
            if all(fd != self._fd for fd, _ in ready):
                raise Gone
            return


class HandlePipe:
    """As `Pipe`, on Windows, whose pipes are no files. There `peer` is a handle, and always exact."""

    def __init__(self, connection: Connection, peer: int, exact: bool, has_ended: Callable[[], bool]) -> None:
        self._connection = connection
        self._peer = peer
        self._has_ended = has_ended
        self._timeout: float | None = None if exact else 1

    def peer_has_ended(self) -> bool:
        """As `Pipe` has it."""
        return bool(wait([self._peer], 0))

    def close(self) -> None:
        """As `Pipe` has it."""
        self._connection.close()

    def send(self, kind: int, key: int, parts: Parts) -> None:
        """As `Pipe` has it."""
        try:
            self._connection.send_bytes(HEAD.pack(kind, key, len(parts) - 1, len(parts[0])))
            for part in parts:
                self._connection.send_bytes(part)
        except OSError as exc:
            raise Gone from exc

    def receive(self) -> Message:
        """As `Pipe` has it."""
        kind, key, more, _ = HEAD.unpack(self._receive())
        return kind, key, [bytearray(self._receive()) for _ in range(more + 1)]

    def _receive(self) -> bytes:
        while not (ready := wait([self._connection, self._peer], self._timeout)):
            if self._has_ended():
                raise Gone
        if self._connection not in ready and not self._connection.poll():
            raise Gone
        try:
            return self._connection.recv_bytes()
        except (EOFError, OSError) as exc:
            raise Gone from exc


# What makes a pipe of a connection.
new_pipe: type[Pipe | HandlePipe] = HandlePipe if sys.platform == "win32" else Pipe
