"""An HTTP service on asyncio whose handlers query a database: what happens when there is more to do than it can?

    python examples/service.py [--seconds SECONDS]

Each of two services runs in a process of its own, and is asked less than it can do, then twice as much. One uses
`StatefulThreadPoolExecutor`: a connection for each worker, and a bounded backlog, so that what is too much is soon
answered by 503 with Retry-After. The other uses `ThreadPoolExecutor` and thread-locals: what is too much waits. Both
end by SIGTERM, in the middle of requests. Printed are the times of the answers with 200, the event loop's lateness, and
what became of the connections. Each line with a yes was checked; the exit code is 1 if there is a NO.
Needs: pip install 'stateful-executor[recipes]'
"""

import argparse
import asyncio
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from statistics import quantiles

from stateful_executor import BacklogFull, StatefulThreadPoolExecutor

try:
    from aiohttp import ClientSession, TCPConnector, web
except ModuleNotFoundError:
    sys.exit("this example needs aiohttp: pip install 'stateful-executor[recipes]'")

WORKERS = 4
QUERY = 0.02  # seconds: so much does one take, as with a database on the network
CAPACITY = WORKERS / QUERY  # requests a second
MAX_BACKLOG = 2 * WORKERS
PATIENCE = 0.05  # seconds that a request waits for a place in the backlog
LOOKUP = "SELECT ?1 * ?1 FROM (SELECT wait(?2))"

Ask = Callable[[int, float], Awaitable[int]]
claims: list[bool] = []
opened: list[sqlite3.Connection] = []
closed: list[sqlite3.Connection] = []


def claim(holds: bool, text: str) -> None:
    claims.append(holds)
    print(f"  {'yes' if holds else 'NO '}  {text}")


def connect() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:")
    db.create_function("wait", 1, time.sleep)
    opened.append(db)
    return db


def lookup(db: sqlite3.Connection, key: int, seconds: float) -> int:
    (square,) = db.execute(LOOKUP, (key, seconds)).fetchone()
    return int(square)


# Two ways to have threads do it. Each yields what a handler awaits.
def own_connection() -> Generator[sqlite3.Connection]:
    db = connect()
    yield db
    db.close()
    closed.append(db)


async def with_states() -> AsyncGenerator[Ask]:
    """A connection for each worker, closed there; a bounded backlog."""

    async def ask(key: int, seconds: float) -> int:
        task = await db.asubmit(lookup, key, seconds)  # waits for a place, for `submit_timeout` at most
        return await task

    pool = StatefulThreadPoolExecutor(WORKERS, "db", own_connection, max_backlog=MAX_BACKLOG, submit_timeout=PATIENCE)
    db = pool.with_state()
    yield ask
    await asyncio.to_thread(pool.shutdown)  # waits for the workers, which close their connections


async def with_locals() -> AsyncGenerator[Ask]:
    """A connection for each thread, closed by nobody; a queue without a bound."""

    def initialize() -> None:
        local.db = connect()

    def lookup_local(key: int, seconds: float) -> int:
        return lookup(local.db, key, seconds)

    local = threading.local()
    pool = ThreadPoolExecutor(WORKERS, "db", initialize)
    yield partial(asyncio.get_running_loop().run_in_executor, pool, lookup_local)
    await asyncio.to_thread(pool.shutdown)


WAYS = {"StatefulThreadPoolExecutor": with_states, "ThreadPoolExecutor": with_locals}
ASK = web.AppKey("ask", Callable[[int, float], Awaitable[int]])
UNDER_WAY = web.AppKey("under_way", list[web.Request])


# The service.
async def square(request: web.Request) -> web.Response:
    request.app[UNDER_WAY].append(request)
    try:
        key, seconds = int(request.match_info["key"]), float(request.query.get("seconds", QUERY))
        return web.json_response(await request.app[ASK](key, seconds))
    except BacklogFull:
        return web.Response(status=503, headers={"Retry-After": "1"})
    finally:
        request.app[UNDER_WAY].remove(request)


async def under_way(request: web.Request) -> web.Response:
    return web.json_response(len(request.app[UNDER_WAY]))


async def watch(late: list[float]) -> None:
    """Note how late the event loop is, 200 times a second."""
    while True:
        due = time.perf_counter() + 0.005
        await asyncio.sleep(0.005)
        late.append(time.perf_counter() - due)


async def serve(way: str) -> None:
    """Serve until SIGTERM; then answer what is under way, and close all connections."""

    async def use_threads(app: web.Application) -> AsyncGenerator[None]:
        async for ask in WAYS[way]():
            app[ASK] = ask
            yield

    async def lateness(_: web.Request) -> web.Response:
        figures = late[:]
        late.clear()
        return web.json_response(figures)

    late: list[float] = []
    app = web.Application()
    app[UNDER_WAY] = []
    app.add_routes([web.get("/square/{key}", square), web.get("/under_way", under_way), web.get("/lateness", lateness)])
    app.cleanup_ctx.append(use_threads)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    told_to_end = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told_to_end.set)
    watcher = asyncio.create_task(watch(late))
    print(runner.addresses[0][1], flush=True)
    await told_to_end.wait()
    await runner.cleanup()  # no new connections; waits for the handlers; then the rest of `use_threads`
    watcher.cancel()
    print(f"{len(opened)} opened, {len(closed)} closed")


# The load.
@dataclass
class Answers:
    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)  # of those with 200
    wrong: int = 0


async def get(session: ClientSession, key: int, answers: Answers, seconds: float = QUERY) -> None:
    begin = time.perf_counter()
    async with session.get(f"/square/{key}?seconds={seconds}") as response:
        body = await response.text()
    taken = time.perf_counter() - begin
    answers.statuses[response.status] += 1
    if response.status == 200:
        answers.seconds.append(taken)
        answers.wrong += int(body) != key * key
    else:
        answers.wrong += response.status != 503 or "Retry-After" not in response.headers


async def load(session: ClientSession, rate: float, seconds: float, answers: Answers) -> None:
    """Send requests at a steady rate, whatever becomes of them."""
    begin = time.perf_counter()
    async with asyncio.TaskGroup() as requests:
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(begin + number / rate - time.perf_counter(), 0))
            requests.create_task(get(session, number, answers))


def milliseconds(seconds: list[float]) -> str:
    cuts = quantiles(seconds, n=100)
    return f"p50 {cuts[49] * 1000:6.1f} ms, p99 {cuts[98] * 1000:7.1f} ms"


async def try_load(session: ClientSession, rate: float, seconds: float) -> Answers:
    answers = Answers()
    await (await session.get("/lateness")).read()
    await load(session, rate, seconds, answers)
    late = await (await session.get("/lateness")).json()
    print(f"  {rate:4.0f} requests/s: {milliseconds(answers.seconds)}; {answers.statuses[503]:4} answered by 503")
    print(f"     event loop late: {milliseconds(late)}")
    claim(not answers.wrong, f"{answers.statuses.total()} answers, all of them right")
    return answers


async def end_in_the_middle(session: ClientSession, child: asyncio.subprocess.Process) -> None:
    answers = Answers()
    requests = asyncio.gather(*(get(session, key, answers, 0.5) for key in range(2 * WORKERS)))
    while await (await session.get("/under_way")).json() < 2 * WORKERS:
        pass
    child.send_signal(signal.SIGTERM)
    await requests
    assert child.stdout is not None
    connections = (await child.stdout.read()).decode().strip()
    claim(await child.wait() == 0, f"SIGTERM with {2 * WORKERS} requests under way: it ends by itself, and in order")
    claim(answers.statuses == {200: 2 * WORKERS}, "each of them was answered")
    print(f"     connections: {connections}")
    numbers = [int(word) for word in connections.split() if word.isdigit()]
    all_closed.append(numbers[0] == numbers[1] > 0)


all_closed: list[bool] = []


async def compare(seconds: float) -> None:
    overloaded: dict[str, Answers] = {}
    for way in WAYS:
        print(f"{way}, {WORKERS} workers, {CAPACITY:.0f} requests/s at most:")
        child = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "--serve", way, stdout=asyncio.subprocess.PIPE
        )
        assert child.stdout is not None
        try:
            port = int(await child.stdout.readline())
            connector = TCPConnector(limit=0)  # as many connections as there are requests
            async with ClientSession(f"http://127.0.0.1:{port}", connector=connector) as session:
                await try_load(session, CAPACITY / 2, seconds)
                overloaded[way] = await try_load(session, CAPACITY * 2, seconds)
                await end_in_the_middle(session, child)
        finally:
            if child.returncode is None:  # something has failed
                child.kill()
        print()
    ours, theirs = overloaded.values()
    claim(
        bool(ours.statuses[503]) and not theirs.statuses[503], "asked too much, ours says so; theirs keeps all waiting"
    )
    claim(max(ours.seconds) < max(theirs.seconds), "whom ours answers, it answers sooner")
    claim(all_closed == [True, False], "ours has closed every connection, theirs has not")


def main() -> None:
    parser = argparse.ArgumentParser(description="An HTTP service on asyncio under load, with two kinds of executor.")
    parser.add_argument("--seconds", type=float, default=3, help="of each load (default %(default)s)")
    parser.add_argument("--serve", choices=WAYS, help="only serve, until SIGTERM")
    options = parser.parse_args()
    asyncio.run(serve(options.serve) if options.serve else compare(options.seconds))
    sys.exit(not all(claims))


if __name__ == "__main__":
    main()
