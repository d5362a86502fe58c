"""See what each worker did when: a loader that starves, then has a backlog that is too small, then loses connections.

Writes trace.json for https://ui.perfetto.dev, and, with matplotlib and bokeh, timeline.png and timeline.html:
pip install 'stateful-executor[plot,page]'
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

from stateful_executor import StatefulThreadPoolExecutor, StatePolicy, trace

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else ".")


class Connection:
    """To a database, as slow as they are."""

    def query(self, seconds: float) -> None:
        time.sleep(seconds)

    def lose(self, seconds: float) -> None:
        time.sleep(seconds)
        raise ConnectionError


def connect() -> Iterator[Connection]:
    time.sleep(0.06)
    yield Connection()
    time.sleep(0.01)


def main() -> None:
    policy = StatePolicy(discard_on=ConnectionError)
    pool = StatefulThreadPoolExecutor(4, "loader", initializer=connect, policy=policy, max_backlog=2)
    with trace.record(pool) as recording, pool:
        db = pool.with_state()
        for _ in range(12):  # too slow to keep four workers busy
            time.sleep(0.02)
            db.submit(Connection.query, 0.03)
        for _ in range(8):  # bursts: with the backlog full they wait, and so there is nothing to do between them
            for _ in range(12):
                db.submit(Connection.query, 0.006)
            time.sleep(0.015)
        with pool.scope() as scope:
            view = scope.with_state()
            futures = [
                view.submit(Connection.lose if number % 16 == 15 else Connection.query, number * 7 % 25 / 1000)
                for number in range(96)
            ]
            lost = sum(future.exception() is not None for future in futures)
    recording.save(FOLDER / "trace.json")
    print(f"{recording}, {lost} connections lost")
    for draw, name in (recording.plot, "timeline.png"), (recording.html, "timeline.html"):
        try:
            draw(FOLDER / name)
        except ImportError as error:
            print(error)


if __name__ == "__main__":
    main()
