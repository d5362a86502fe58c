"""Pools beside other processes and interpreters: fork at every moment, multiprocessing, exec, subinterpreters."""

import os
import sys
from textwrap import dedent

import pytest
from child import ENTRY_POINT_NAMES, ENTRY_POINTS, FORKS, PRELUDE, needs_fork, run, run_forks, run_well

needs_spawn = pytest.mark.skipif(not hasattr(os, "posix_spawn"), reason="no posix_spawn")


# Fork, wherever a pool calls what a user wrote

ENDINGS = """
left = []


def fork_once():
    # Fork; the child tries each entry point, makes a pool of its own, and ends. Return in the parent when it has ended.
    if left:
        return
    left.append(None)
    pid = forked()
    if pid:
        join(pid)
        say("parent")
        return
    try_entry_points(pool)
    with StatefulThreadPoolExecutor(1) as new:
        say("new pool:", new.submit(len, "abc").result())
    end()


class Closing:
    # A state that nobody is to let go of in a child.
    def __del__(self):
        tear_down(threading.get_ident())
"""
IN_CHILD = [*ENTRY_POINT_NAMES, "new pool: 3", "parent"]


@needs_fork
@pytest.mark.parametrize("ending", ["pass", "os._exit(0)"])
@pytest.mark.parametrize(
    "place",
    ["initializer", "finalizer", "generator", "view's finalizer", "check", "reset", "discard_on", "callback",
     "broadcast", "bound function", "nested task", "task that discards", "map", "destructor"],
)  # fmt: skip
def test_fork_in_what_a_worker_calls(place: str, ending: str) -> None:
    """In the child the pool is refused, and no state of the parent's is torn down, nor let go, be it in that very call.

    The child goes on where the call returns, in a copy of the worker's thread, and ends with that.
    """
    lines = run_forks(
        f"""
        from stateful_executor import StatePolicy

        def end():
            {ending}

        def generator():
            me = threading.get_ident()
            yield
            tear_down_forking(me)

        def make_forking():
            fork_once()
            return make()

        def tear_down_forking(state):
            fork_once()
            if os.getpid() == parent:
                tear_down(state)

        def fails(*_):
            raise LookupError

        class Mortal:
            def __del__(self):
                fork_once()

        place = {place!r}
        hook = lambda *_: fork_once()
        options = dict(initializer=make, finalizer=tear_down)
        match place:
            case "initializer":
                options["initializer"] = make_forking
            case "finalizer":
                options["finalizer"] = tear_down_forking
            case "generator":
                options = dict(initializer=generator)
            case "check" | "reset" | "discard_on":
                options["policy"] = StatePolicy(**{{place: hook}})
        pool = StatefulThreadPoolExecutor(1, **options)
        view = pool.with_state()
        # Another two states, which are torn down after, and before, the one whose end may fork.
        pool.with_state(Closing).submit(lambda state: None).result()
        last = pool.with_state(make, finalizer=tear_down_forking if place == "view's finalizer" else tear_down)
        last.submit(lambda state: None).result()
        match place:
            case "callback":
                done, go_on = threading.Event(), threading.Event()
                future = pool.submit(go_on.wait)
                future.add_done_callback(hook)
                future.add_done_callback(lambda _: done.set())
                go_on.set()
                done.wait()
            case "broadcast":
                pool.broadcast(hook)[0].result()
            case "bound function":
                pool.submit(view.bind(hook)).result()
            case "nested task":
                view.submit(lambda state: view.submit(hook).result()).result()
            case "task that discards":
                view.submit(lambda state: (fork_once(), view.discard())).result()
            case "map":
                list(view.map(hook, "ab", chunksize=2))
            case "discard_on":
                view.submit(fails).exception()
            case "destructor":
                view.submit(lambda state: pool.submit(id, Mortal()).result()).result()
            case _:
                view.submit(lambda state: None).result()
        pool.shutdown()
        say("states left:", pool.stats().states_made - pool.stats().states_torn_down)
        """,
        ENTRY_POINTS + ENDINGS,
    )
    assert [line for line in lines if "torn" not in line] == [*IN_CHILD, "states left: 0"]
    assert {line for line in lines if "torn" in line} == {"torn down in its thread"}


@needs_fork
@pytest.mark.parametrize(
    "wait", ["scope's end", "shutdown", "result", "map", "blocked submit", "wait", "as_completed", "map_unordered"]
)
@pytest.mark.parametrize("ending", ["pass", "sys.exit(0)"])
def test_fork_while_another_thread_waits(wait: str, ending: str) -> None:
    """A thread of the user's forks while the main thread sleeps in the library: that one is not in the child."""
    lines = run_forks(
        f"""
        import concurrent.futures

        def end():
            {ending}

        def thread():
            until_waiting()
            try:
                fork_once()
            finally:
                go_on.set()

        def until_waiting():
            if {wait!r} in ("wait", "as_completed"):
                ready.wait()
                until(lambda: running._waiters)
            else:
                until_main_sleeps()

        pool = StatefulThreadPoolExecutor(1, initializer=make, finalizer=tear_down, max_backlog=1)
        go_on = threading.Event()
        begun = threading.Event()
        running = pool.submit(lambda: begun.set() or go_on.wait())
        begun.wait()
        forking = threading.Thread(target=thread)
        forking.start()
        with suppress(RuntimeError):
            match {wait!r}:
                case "scope's end":
                    with pool.scope() as scope:
                        scope.submit(int)
                        ready.set()
                case "shutdown":
                    ready.set()
                    pool.shutdown()
                case "result":
                    ready.set()
                    running.result()
                case "map" | "map_unordered":
                    results = getattr(pool, {wait!r})(abs, [1])
                    ready.set()
                    say(*results)
                case "blocked submit":
                    pool.submit(int)
                    ready.set()
                    say(pool.submit(int).result())
                case "wait":
                    ready.set()
                    say(len(concurrent.futures.wait([running]).done))
                case "as_completed":
                    ready.set()
                    say(len(list(concurrent.futures.as_completed([running]))))
        forking.join()
        pool.shutdown()
    """,
        ENTRY_POINTS + ENDINGS,
    )
    told = {"map": ["1"], "map_unordered": ["1"], "blocked submit": ["0"], "wait": ["1"], "as_completed": ["1"]}
    assert lines[: len(IN_CHILD) - 1] == IN_CHILD[:-1]
    assert sorted(lines[len(IN_CHILD) - 1 :]) == sorted(["parent", *told.get(wait, []), "torn down in its thread"])


@needs_fork
def test_grandchildren() -> None:
    """Each process refuses the pools of those before it, and tears down its own states only."""
    lines = run_forks(
        """
        pools = []

        def descend(generation):
            for pool in pools:
                try_entry_points(pool)
            say("generation", generation)
            if generation == 3:
                return
            pool = StatefulThreadPoolExecutor(1, initializer=make, finalizer=lambda _: say("end of", generation))
            pool.submit(int).result()
            pools.append(pool)
            fork(lambda: descend(generation + 1))
            pool.shutdown()

        descend(1)
    """,
        ENTRY_POINTS,
    )
    knocks = ENTRY_POINT_NAMES
    assert lines == [
        "generation 1", *knocks, "generation 2", *knocks * 2, "generation 3", "end of 2", "end of 1",
    ]  # fmt: skip


@needs_fork
@pytest.mark.parametrize("where", ["outside", "in a task"])
def test_only_the_forking_thread_may_be_a_worker_in_the_child(where: str) -> None:
    """The others did not come along, but new threads may get their idents."""
    lines = run_forks(f"""
        from inside import containers, current

        barrier = threading.Barrier(3)

        def child():
            say("workers:", len(dict(containers(pool))["current"]))
            say("a worker:", current.worker is not None)

        def task(number):
            barrier.wait()
            if number == 0 and {where == "in a task"}:
                fork(child)
            barrier.wait()

        with StatefulThreadPoolExecutor(2) as pool:
            futures = [pool.submit(task, number) for number in range(2)]
            barrier.wait()
            if {where == "outside"}:
                fork(child)
            barrier.wait()
            for future in futures:
                future.result()
    """)
    in_a_task = where == "in a task"
    assert lines == [f"workers: {in_a_task:d}", f"a worker: {in_a_task}"]


@needs_fork
@pytest.mark.parametrize("where", ["main thread", "task"])
def test_fork_and_exec(where: str) -> None:
    """A child that becomes another program meets no pool, and the parent goes on."""
    lines = run_forks(f"""
        def fork_and_exec():
            pid = forked()
            if pid == 0:
                os.execv(sys.executable, [sys.executable, "-c", "import os; os.write(1, b'42\\\\n')"])
            join(pid)

        with StatefulThreadPoolExecutor(1, initializer=make, finalizer=tear_down) as pool:
            pool.submit(fork_and_exec).result() if {where == "task"} else fork_and_exec()
            say(pool.submit(len, "abc").result())
    """)
    assert lines == ["42", "3", "torn down in its thread"]


@needs_fork
@pytest.mark.parametrize("where", ["main thread", "task"])
def test_exec_replaces_the_process(where: str) -> None:
    """`os.exec` ends all threads in the middle of whatever: nothing is torn down, and nothing hangs."""
    lines = run_well(f"""
        pool = StatefulThreadPoolExecutor(1, initializer=make, finalizer=tear_down)
        pool.submit(until_main_sleeps) if {where == "main thread"} else pool.submit(int).result()
        args = sys.executable, [sys.executable, "-c", "print(42)"]
        pool.submit(os.execv, *args) if {where == "task"} else os.execv(*args)
    """)
    assert lines == ["42"]


@needs_spawn
def test_posix_spawn_in_a_task() -> None:
    """It copies no thread and no pool."""
    lines = run_well("""
        def spawn():
            command = [sys.executable, "-c", "import os; os.write(1, b'42\\\\n')"]
            pid = os.posix_spawn(sys.executable, command, os.environ)
            return os.waitpid(pid, 0)[1]

        with StatefulThreadPoolExecutor(1, initializer=make, finalizer=tear_down) as pool:
            say(pool.submit(spawn).result())
    """)
    assert lines == ["42", "0", "torn down in its thread"]


# multiprocessing

# Run in the child by `exec`, which every start method can find there.
CHILD = """
from stateful_executor import StatefulThreadPoolExecutor

def generator():
    yield
    queue.put("torn down")

pool = StatefulThreadPoolExecutor(1, initializer=generator, max_backlog=5)
with pool.scope() as scope:
    queue.put(scope.submit(len, "abc").result())
pool.submit(queue.put, "ran")  # the process ends with this one queued, or running
"""


@needs_fork
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing(method: str) -> None:
    """A process started beside a pool, and from a task, makes its own pool, finishes its queue and tears it down."""
    lines = run_forks(f"""
        import multiprocessing

        code = {CHILD!r}
        context = multiprocessing.get_context({method!r})

        def start():
            queue = context.SimpleQueue()  # of which the end needs no thread
            process = context.Process(target=exec, args=(code, {{"queue": queue}}))
            process.start()
            said = [queue.get() for _ in range(3)]
            process.join()
            return process.exitcode, *said

        with StatefulThreadPoolExecutor(1, initializer=make, finalizer=tear_down) as pool:
            pool.submit(int).result()
            say(start())
            say(pool.submit(start).result())
    """)
    assert lines == ["(0, 3, 'ran', 'torn down')"] * 2 + ["torn down in its thread"]


@needs_fork
def test_a_multiprocessing_child_meets_the_pool_of_its_parent() -> None:
    """Forked, it is refused at once; a pool can't be sent to one that is spawned."""
    lines = run_forks(
        """
        import multiprocessing

        pool = StatefulThreadPoolExecutor(1, initializer=make, finalizer=tear_down)
        pool.submit(int).result()
        process = multiprocessing.get_context("fork").Process(target=lambda: try_entry_points(pool))
        process.start()
        process.join()
        say(process.exitcode)
        process = multiprocessing.get_context("spawn").Process(target=id, args=(pool,))
        try:
            process.start()
        except TypeError as exc:
            say(exc)
    """,
        ENTRY_POINTS,
    )
    assert lines[: len(ENTRY_POINT_NAMES) + 1] == [*ENTRY_POINT_NAMES, "0"]
    assert "pickle" in lines[-2]
    assert lines[-1] == "torn down in its thread"


@needs_fork
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("ending", ["pass", "shutdown"])
def test_beside_a_process_pool(method: str, ending: str) -> None:
    """Tasks that wait for a `ProcessPoolExecutor`, and callbacks of its that submit here; also while exiting."""
    script = f"""
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        context = multiprocessing.get_context({method!r})
        ours = StatefulThreadPoolExecutor(2, initializer=make, finalizer=tear_down)
        ours.submit(int).result()
        theirs = ProcessPoolExecutor(1, mp_context=context)
        say(*ours.map(lambda word: theirs.submit(len, word).result(), ["a", "bc"]))
        passed_on = threading.Event()
        future = theirs.submit(len, "abc")
        future.add_done_callback(lambda future: ours.submit(say, "passed on", future.result()))
        future.add_done_callback(lambda future: passed_on.set())
        passed_on.wait()
        last = [theirs.submit(len, "abcd") for _ in range(3)]
        ours.submit(lambda: say(*[future.result() for future in last]))
        if {ending!r} == "shutdown":
            ours.shutdown()
            theirs.shutdown()
    """
    # CPython 3.12.1's own hook for process pools may find a pipe closed at exit, and say so on stderr.
    code, lines, _ = run(script, PRELUDE + FORKS, "-W", "ignore::DeprecationWarning")
    assert code == 0
    assert lines[0] == "1 2"
    assert sorted(line for line in lines[1:] if "torn" not in line) == ["4 4 4", "passed on 3"]
    assert {line for line in lines if "torn" in line} == {"torn down in its thread"}


# Subinterpreters

SUBINTERPRETER = """
import os, sys

if sys.version_info < (3, 13):
    import _xxsubinterpreters as interpreters

    def create(own):
        return interpreters.create(isolated=own)
else:
    import _interpreters as interpreters

    def create(own):
        return interpreters.create("isolated" if own else "legacy")


def run(code, own):
    # In a new interpreter, and end that.
    code = f"import sys; sys.path[:0] = {sys.path!r}\\n" + PRELUDE_THERE + code
    if own and sys.version_info >= (3, 14):
        from concurrent.interpreters import create as create_publicly

        interpreter = create_publicly()
        interpreter.exec(code)
        interpreter.close()
        os.write(1, b"destroyed\\n")
        return
    identifier = create(own)
    try:
        if (error := interpreters.run_string(identifier, code)) is not None:
            print(error)
    finally:
        interpreters.destroy(identifier)
    os.write(1, b"destroyed\\n")
"""
# Signals are the main interpreter's.
PRELUDE_THERE = """
import os, threading
from stateful_executor import StatefulThreadPoolExecutor

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def generator():
    me = threading.get_ident()
    yield
    say("torn down in", "its" if me == threading.get_ident() else "another", "thread")

pool = StatefulThreadPoolExecutor(2, initializer=generator, max_backlog=5)
"""
USES = {
    "shut down": """
with pool:
    say(pool.submit(len, "abc").result(), *pool.map(abs, [1, 2], buffersize=1))
    with pool.scope(timeout=60) as scope:
        say(scope.with_state().submit(lambda state: 4).result())
""",
    "live": 'say(pool.submit(len, "abc").result())',
    "dropped": 'say(pool.submit(len, "abc").result()); del pool',
    "queued": """
everyone = threading.Barrier(2)
for _ in range(2):
    pool.submit(everyone.wait)
for _ in range(3):
    pool.submit(say, "ran")
""",
    "open scope": """
scope = pool.scope(timeout=3600).__enter__()
say(scope.submit(len, "abc").result())
""",
    "scope in a thread": """
def thread():
    with pool.scope(timeout=3600) as scope:
        scope.submit(say, "ran")
        begun.set()
    say("left")
begun = threading.Event()
threading.Thread(target=thread).start()
begun.wait()
""",
    "deadline": """
try:
    with pool.scope(timeout=0.01) as scope:
        while not scope.cancelled:
            pass
except TimeoutError:
    say("TimeoutError")
pool.submit(int).result()
""",
    "retired": """
pool = StatefulThreadPoolExecutor(1, initializer=generator, idle_timeout=0)
pool.submit(int).result()
""",
}
SAID = {
    "shut down": ["3 1 2", "4"],
    "live": ["3"],
    "dropped": ["3"],
    "queued": ["ran"] * 3,
    "open scope": ["3"],
    "scope in a thread": ["left", "ran"],
    "deadline": ["TimeoutError"],
    "retired": [],
}


# 3.11 aborts when an interpreter ends that has a thread left, and joins none, be it the standard library's executor's.
# Even after `with pool`: the thread of a scope's deadline was woken, but may not be gone.
needs_subinterpreters = pytest.mark.skipif(sys.version_info < (3, 12), reason="subinterpreters of 3.11 end no threads")


@needs_subinterpreters
@pytest.mark.parametrize("own", [True, False], ids=["own-gil", "shared-gil"])
@pytest.mark.parametrize("use", USES)
def test_in_a_subinterpreter(use: str, own: bool) -> None:
    """A pool works there, and when the interpreter ends it finishes its queue and tears down, as in the main one."""
    script = f"{SUBINTERPRETER}\nPRELUDE_THERE = {PRELUDE_THERE!r}\nrun({USES[use]!r}, {own})"
    code, lines, errors = run(script, "")
    assert errors == ""
    assert code == 0
    assert lines[-1] == "destroyed"
    assert sorted(line for line in lines[:-1] if "torn" not in line) == SAID[use]
    assert {line for line in lines if "torn" in line} == {"torn down in its thread"}


@needs_subinterpreters
@pytest.mark.parametrize("own", [True, False], ids=["own-gil", "shared-gil"])
def test_exit_timeout_in_a_subinterpreter(own: bool) -> None:
    """It has no daemons, and ends only when its threads have ended: such a pool is refused, and others go on."""
    code = """
        try:
            StatefulThreadPoolExecutor(1, "name", exit_timeout=5)
        except RuntimeError as exc:
            os.write(1, f"{exc}\\n".encode())
        pool = StatefulThreadPoolExecutor(1)
        pool.submit(os.write, 1, b"ran\\n")
    """
    lines = run_well(f"{SUBINTERPRETER}\nPRELUDE_THERE = {PRELUDE_THERE!r}\nrun({dedent(code)!r}, {own})", "")
    assert lines[0].startswith("name can't have an exit_timeout, since a subinterpreter ends only when its threads")
    assert lines[1:] == ["ran", "destroyed"]


@needs_subinterpreters
def test_pools_of_many_interpreters() -> None:
    """Each has its own, at the same time; a pool of the main one runs the interpreters in its tasks."""
    script = f"""
        with StatefulThreadPoolExecutor(3, initializer=make, finalizer=tear_down) as pool:
            for _ in pool.map(lambda _: run({USES["live"]!r}, True), range(6)):
                pass
    """
    # CPython 3.13.0 itself complains on stderr about its dummy for a thread that it did not start.
    code, lines, _ = run(script, PRELUDE + SUBINTERPRETER + f"\nPRELUDE_THERE = {PRELUDE_THERE!r}\n")
    assert code == 0
    assert lines.count("destroyed") == 6
    assert lines.count("3") == 6
    assert lines.count("torn down in its thread") >= 6 + 1
    assert "another" not in " ".join(lines)
