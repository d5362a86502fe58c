"""A child process as a remote worker: its life as its parent sees it, and what the child does."""

from __future__ import annotations

import _thread
import atexit
import operator
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing import parent_process
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from ._current import current
from ._interrupts import locked
from ._pipe import Gone, HandlePipe, Pipe, new_pipe
from ._server import Server
from ._wire import CLOSE, Parts
from .errors import WorkerLost

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

NOT_READY = (
    "before it was ready: its own output says why. Unless it is forked it imports the main module, whose code that "
    'makes pools belongs under `if __name__ == "__main__":`'
)
LOST = (
    "while it ran a task, which may have run in full, in part or not at all; the states of that worker are gone "
    "without a teardown"
)

# Held while a process is started, killed, or asked for its exit code. `multiprocessing` asks all there are when it
# starts one, and of two threads that ask at once one may be told nothing, or 255; and a process that nobody has asked
# is still there to be killed by its number. Made anew in a forked child.
_lock = _thread.RLock()

# Those that have not been reaped. Guarded by the dict's own lock.
_workers: dict[ProcessWorker, None] = {}


class ProcessWorker:
    """A child process that runs `serve`. Used by the thread that made it, but for `kill`. Strictly private.

    `_killed`
        once set it stays set; by any thread.
    `_exit_code`
        None until the process was reaped.
    `_asked_to_end`
        it ends by itself, and is not to be killed.

    Who waits in here, for a reply or the end of the process, is woken by either: see `_pipe`.
    """

    def __init__(self, context: BaseContext, name: str, setup: bytes) -> None:
        self._name = name
        self._killed: bool = False
        self._asked_to_end: bool = False
        self._exit_code: int | None = None
        locked(_lock, partial(self._start, context, setup))

    def _start(self, context: BaseContext, setup: bytes) -> None:
        ours, theirs = context.Pipe()
        try:
            self._process: BaseProcess = _started(context, self._name, (theirs, os.getpid(), setup))
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._pid: int = self._process.pid or 0
        self._pidfd: int | None = _pidfd(self._pid)
        peer = self._process.sentinel if self._pidfd is None else self._pidfd
        self._pipe: Pipe | HandlePipe = new_pipe(ours, peer, self._pidfd is not None, self._is_over)
        _workers[self] = None

    @classmethod
    def start(cls, context: BaseContext, name: str, setup: bytes) -> tuple[ProcessWorker, Parts]:
        """A process whose server has made the pool's own state, and its reply to that."""
        worker = cls(context, name, setup)
        try:
            return worker, worker._pipe.receive()[2]
        except Gone:
            raise worker._lost(NOT_READY) from None
        except BaseException:
            worker.close()
            raise

    # As `RemoteWorker` has it

    def alive(self) -> bool:
        """As `RemoteWorker` has it."""
        return not (self._killed or self._pipe.peer_has_ended())

    def call(self, kind: int, key: int, parts: Parts) -> Parts:
        """As `RemoteWorker` has it."""
        try:
            self._pipe.send(kind, key, parts)
            reply = self._pipe.receive()[2]
        except Gone:
            raise self._lost(LOST) from None
        except BaseException:  # out of memory, or thrown into this thread: half a message may be in the pipe
            self.kill()
            raise
        self._asked_to_end = kind == CLOSE
        return reply

    def kill(self) -> None:
        """As `RemoteWorker` has it."""
        self._killed = True
        locked(_lock, self._kill)

    def _kill(self) -> None:
        if self._exit_code is None:
            with suppress(ProcessLookupError):  # reaped, by the server that has forked it
                self._process.kill()

    def close(self) -> None:
        """As `RemoteWorker` has it. What was not asked to end, or has let go of its pipe without that, is killed."""
        if self not in _workers:
            return
        if not self._asked_to_end:
            self.kill()
        while not self._is_over():
            wait([self._process.sentinel] if self._pidfd is None else [self._process.sentinel, self._pidfd], 1)
        self._forget()

    def _forget(self) -> None:
        self._pipe.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
        locked(_lock, self._process.join)  # has ended, and is known to have
        self._process.close()
        _workers.pop(self, None)

    def _is_over(self) -> bool:
        if self._exit_code is None:
            locked(_lock, self._reap)
        return self._exit_code is not None

    def _reap(self) -> None:
        self._exit_code = self._process.exitcode

    def _lost(self, when: str) -> WorkerLost:
        self.close()
        code = self._exit_code or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return WorkerLost(f"worker process {self._pid} of {self._name} {how} {when}")


class _QuietName(str):
    """The name of a process that ignores Ctrl-C from where it learns that name, before it imports the main module.

    Else one Ctrl-C in a terminal prints the traceback of each child that is just being started.
    """

    __slots__ = ()

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return operator.getitem, ([str(self), _IgnoreInterrupts()], 0)


class _IgnoreInterrupts:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return signal.signal, (signal.SIGINT, signal.SIG_IGN)


def _started(context: Any, name: str, args: tuple[Any, ...]) -> BaseProcess:
    """A new process that runs `serve`. It is no daemon, so that tasks can start processes of their own."""
    process: BaseProcess = context.Process(target=serve, args=args, name=_QuietName(name), daemon=False)
    if context.get_start_method() == "forkserver" or not hasattr(signal, "pthread_sigmask"):
        process.start()
        return process
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # the child has it, too, until it ignores Ctrl-C
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return process


def _pidfd(pid: int) -> int | None:
    """What becomes readable when that process ends; `ProcessLookupError` when it has been reaped."""
    try:
        return os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
    except ProcessLookupError:
        raise
    except OSError:  # the system does not know it, or does not allow it
        return None


# In the child


def serve(connection: Connection, parent: int, setup: bytes) -> None:
    """Answer requests until asked to end, or the parent has ended; then tear down."""
    signal.signal(signal.SIGINT, _leave_it_to_the_parent)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    if hasattr(signal, "set_wakeup_fd"):
        signal.set_wakeup_fd(-1)  # that of an event loop of the parent's, if this is a fork
    current.worker = None
    server = Server()
    try:
        pipe = _pipe_to(parent, connection)
        pipe.send(0, 0, server.start(setup))
        while _serve_one(pipe, server):
            pass
    except (Gone, ProcessLookupError):  # the parent has ended
        pass
    finally:
        server.close()


def _serve_one(pipe: Pipe | HandlePipe, server: Server) -> bool:
    kind, key, parts = pipe.receive()
    pipe.send(0, 0, server.answer(kind, key, parts))
    return kind != CLOSE


def _pipe_to(parent: int, connection: Connection) -> Pipe | HandlePipe:
    pidfd = _pidfd(parent)
    started_by = os.getppid()  # the parent, or the server that forked this, and ends when the parent does
    process = parent_process()
    assert process is not None
    peer = process.sentinel if pidfd is None else pidfd
    return new_pipe(connection, peer, pidfd is not None, lambda: os.getppid() != started_by)


def _leave_it_to_the_parent(*_: object) -> None:
    """Ctrl-C in a terminal comes to all its processes. No SIG_IGN: what a task starts would inherit that."""


# At the end


def _kill_left() -> None:
    """At exit: who is left runs a task that the exit has waited for long enough, see `exit_timeout`."""
    for worker in _workers.copy():
        worker.kill()


def _forked() -> None:
    """In a forked child: the pipes are the parent's, and are not to be kept open from here."""
    global _lock, _workers
    workers, _workers, _lock = _workers, {}, _thread.RLock()
    for worker in workers:
        worker._pipe.close()


atexit.register(_kill_left)  # after `multiprocessing` has registered what joins its processes, hence before that
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
