"""A child process as a remote worker: its life as its parent sees it, and what the child does."""

from __future__ import annotations

import _thread
import atexit
import operator
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing import current_process, parent_process
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from multiprocessing.spawn import import_main_path
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

    def __init__(self, launcher: Launcher) -> None:
        self._name = launcher.name
        self._killed: bool = False
        self._asked_to_end: bool = False
        self._exit_code: int | None = None
        locked(_lock, partial(self._start, launcher))

    def _start(self, launcher: Launcher) -> None:
        ours, theirs = launcher.context.Pipe()
        try:
            self._process: BaseProcess = launcher.start(theirs)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._pid: int = self._process.pid or 0
        self._pidfd: int | None = None
        with suppress(ProcessLookupError):  # it has ended already, and its server has reaped it: the sentinel tells
            self._pidfd = _pidfd(self._pid)
        peer = self._process.sentinel if self._pidfd is None else self._pidfd
        self._pipe: Pipe | HandlePipe = new_pipe(ours, peer, self._pidfd is not None, self._is_over)
        _workers[self] = None

    def first_reply(self) -> Parts:
        """That of a server which has made the pool's own state, or could not."""
        try:
            return self._pipe.receive()[2]
        except Gone:
            raise self._lost(NOT_READY) from None
        except BaseException:
            self.close()
            raise

    # As `RemoteWorker` has it

    def alive(self) -> bool:
        """As `RemoteWorker` has it."""
        # Once it was reaped, what the pipe looks at is closed, and the number may be another file's.
        return not (self._killed or self._exit_code is not None or self._pipe.peer_has_ended())

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
    """Unpickled, it has Ctrl-C ignored from there on."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return signal.signal, (signal.SIGINT, signal.SIG_IGN)


class Launcher:
    """Starts the processes of one pool. They are no daemons, so that tasks can start processes. Immutable."""

    def __init__(self, context: BaseContext, name: str, setup: bytes) -> None:
        self.context = context
        self.name = name
        self.setup = setup
        self._main_file: str | None = _main_file(context)

    def __call__(self) -> tuple[ProcessWorker, Parts]:
        """As `Start` has it."""
        worker = ProcessWorker(self)
        return worker, worker.first_reply()

    def start(self, pipe: Connection) -> BaseProcess:
        """A new process that runs `serve`; with `_lock` held."""
        context: Any = self.context  # `Process` is an attribute of each kind of context, but not of their base
        args = pipe, os.getpid(), self.setup, self._main_file
        process: BaseProcess = context.Process(target=serve, args=args, name=_QuietName(self.name), daemon=False)
        _start_quietly(process, self.context.get_start_method())
        return process


def _main_file(context: BaseContext) -> str | None:
    """The file of the main module, for children that `multiprocessing` may not tell: it looks when it starts them.

    CPython forgets the file when the module has been run to its end. Tasks go on then, and may need a process.
    """
    main = sys.modules.get("__main__")
    file: str | None = getattr(main, "__file__", None)
    named = getattr(getattr(main, "__spec__", None), "name", None)  # by `python -m`: that it does not forget
    return None if context.get_start_method() == "fork" or named or file is None else os.path.normpath(file)


def _start_quietly(process: BaseProcess, method: str | None) -> None:
    """So that Ctrl-C does not hit the child before it ignores that; see `_QuietName` for those of a fork server."""
    if method == "forkserver" or not hasattr(signal, "pthread_sigmask"):
        process.start()
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # which the child inherits
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _pidfd(pid: int) -> int | None:
    """What becomes readable when that process ends; `ProcessLookupError` when it has been reaped."""
    try:
        return os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
    except ProcessLookupError:
        raise
    except OSError:  # the system does not know it, or does not allow it
        return None


# In the child


def serve(connection: Connection, parent: int, setup: bytes, main_file: str | None) -> None:
    """Answer requests until asked to end, or the parent has ended; then tear down."""
    signal.signal(signal.SIGINT, _leave_it_to_the_parent)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    if hasattr(signal, "set_wakeup_fd"):
        signal.set_wakeup_fd(-1)  # that of an event loop of the parent's, if this is a fork
    current.worker = None
    if main_file is not None:
        _import_main(main_file)
    server = Server()
    try:
        pipe = _pipe_to(parent, connection)
        pipe.send(0, 0, server.start(setup))
        _serve_all(pipe, server)
    except (Gone, ProcessLookupError):  # the parent has ended
        pass
    finally:
        server.close()


def _serve_all(pipe: Pipe | HandlePipe, server: Server) -> None:
    while _serve_one(pipe, server):
        pass


def _import_main(file: str) -> None:
    """As `multiprocessing` has done, most often; then nothing happens."""
    process: Any = current_process()
    process._inheriting = True  # as there
    try:
        import_main_path(file)
    finally:
        del process._inheriting


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
