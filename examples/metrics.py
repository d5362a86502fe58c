"""A pool's stats() as Prometheus metrics: nothing is counted twice, and nothing costs a task anything.

`PoolCollector` reads `stats()` when Prometheus asks. Below it, a pool works, and its metrics are fetched over HTTP, as
Prometheus would. Needs prometheus-client: pip install 'stateful-executor[examples]'
"""

import sys
import time
import urllib.request
from collections.abc import Iterator

from stateful_executor import StatefulThreadPoolExecutor

try:
    from prometheus_client import CollectorRegistry, start_http_server
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.registry import Collector
except ModuleNotFoundError:
    sys.exit("this example needs prometheus-client: pip install 'stateful-executor[examples]'")

GAUGES = {
    "workers": "Threads that have started and not ended",
    "idle": "Workers that wait for a task",
    "running": "Tasks begun and not ended",
    "backlog": "Tasks accepted and not begun",
    "peak_backlog": "The most tasks seen in the backlog",
    "blocked_submitters": "Submits that wait for a place in the backlog",
}
COUNTERS = {
    "seconds_blocked": "Seconds that submits have waited for a place in the backlog",
    "submitted": "Tasks accepted",
    "completed": "Tasks that returned",
    "failed": "Tasks that raised, or could not be run",
    "cancelled": "Tasks cancelled before they began",
    "states_made": "Initializers that succeeded",
    "seconds_making": "Seconds that initializers took",
    "states_discarded": "States torn down to be replaced",
    "states_torn_down": "States torn down for whatever reason",
    "teardown_errors": "Teardowns that raised",
}


class PoolCollector(Collector):
    """The metrics of some pools, by the names that are given for them."""

    def __init__(self, **pools: StatefulThreadPoolExecutor) -> None:
        self.pools = pools

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        stats = {name: pool.stats() for name, pool in self.pools.items()}
        for family, fields in (GaugeMetricFamily, GAUGES), (CounterMetricFamily, COUNTERS):
            for field, text in fields.items():
                metric = family(f"stateful_executor_{field}", text, labels=["pool"])
                for name, figures in stats.items():
                    metric.add_metric([name], getattr(figures, field))
                yield metric


def query(connection: list[int], number: int) -> None:
    connection.append(number)
    time.sleep(0.001)


def main() -> None:
    pool = StatefulThreadPoolExecutor(4, initializer=list, max_backlog=16)
    registry = CollectorRegistry()
    registry.register(PoolCollector(queries=pool))
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    with pool:
        failing = pool.submit(int, "four")
        for _ in pool.with_state().map(query, range(100)):
            pass
        failing.exception()
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics") as answer:
            lines = answer.read().decode().splitlines()
    print(*(line for line in lines if not line.startswith("#")), sep="\n")
    server.shutdown()
    server.server_close()
    thread.join()


if __name__ == "__main__":
    main()
