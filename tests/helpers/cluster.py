"""A Ray cluster on this machine for the tests marked `ray`: one for all of them, and nodes that come and go."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from child import PATHS
from inside import handles
from threads import until

PLACES = 4  # CPUs of the head node, as Ray counts them

ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join([*PATHS, str(Path(__file__).parents[1] / "scale")]),  # of the actors
    "RAY_AUTH_MODE": "token",  # it listens on all interfaces, whatever it is told
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else it warns of what will change
    "RAY_ENABLE_AUTO_CONNECT": "0",  # what needs a cluster, and has none, is to fail
    "RAY_USAGE_STATS_ENABLED": "0",
    # A lost node is found in two seconds, not in fifteen.
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


class Cluster:
    """The cluster that this process is connected to."""

    def __init__(self, folder: str) -> None:
        import ray
        from ray._common.utils import get_ray_address_file
        from ray.cluster_utils import Cluster as Nodes

        self._folder = folder
        # Wherever its nodes keep files, Ray notes the address in its usual folder, which it does not make.
        Path(get_ray_address_file(None)).parent.mkdir(parents=True, exist_ok=True)
        self._nodes = Nodes(True, head_node_args={"num_cpus": PLACES, "temp_dir": folder, **NODE})
        self.address: str = self._nodes.address
        ray.init(self.address, logging_level="error", log_to_driver=False)

    @contextmanager
    def node(self, **options: Any) -> Iterator[Any]:
        """Another one while the block runs, unless it is lost before."""
        node = self._nodes.add_node(**NODE, **options)
        try:
            yield node
        finally:
            if node in self._nodes.worker_nodes:
                self._nodes.remove_node(node)

    def lose(self, node: Any) -> None:
        """As if its plug were pulled: nobody says goodbye."""
        self._nodes.remove_node(node, allow_graceful=False)

    def logged(self) -> str:
        """What actors have written to stderr."""
        return "".join(path.read_text() for path in Path(self._folder).glob("session_2*/logs/worker-*.err"))

    def end(self) -> None:
        import ray

        ray.shutdown()
        self._nodes.shutdown()


NODE: dict[str, Any] = {"node_ip_address": "127.0.0.1", "include_dashboard": False}


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Ends with the session, and every process of it by its number."""
    if importlib.util.find_spec("ray") is None:  # it is to be imported in that environment
        pytest.skip("Ray is not installed: pip install 'stateful-executor[ray]'")
    if not Path("/proc/self/task").is_dir():
        pytest.skip("no /proc, by which its processes are found in the end")
    folder = tempfile.mkdtemp(prefix="ray-")
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ |= ENVIRONMENT
    try:
        cluster = Cluster(folder)
        try:
            yield cluster
        finally:
            started = descendants(os.getpid())
            cluster.end()
            end(started)
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        shutil.rmtree(folder, ignore_errors=True)


def descendants(pid: int) -> set[int]:
    """The processes that this one has started, and those in turn."""
    found: set[int] = set()
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, children.read_text().split()):
                found |= {child, *descendants(child)}
    return found


def end(pids: set[int]) -> None:
    """What is left of them, killed one by one."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until(lambda: not any(is_running(pid) for pid in pids))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def knows_of_death(pool: Any, number: int = 1) -> bool:
    """Whether this process knows that so many workers of `pool` are dead."""
    return sum(not handle.alive() for handle in handles(pool)) == number


def actors() -> list[int]:
    """The processes of actors that have no other task than to be workers, as Ray names them."""
    found = []
    for pid in descendants(os.getpid()):
        with suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::StatefulRayWorker"):
                found.append(pid)
    return found


@contextmanager
def stopped(node: Any) -> Iterator[None]:
    """Inside the block, the daemon of that node does nothing."""
    (raylet,) = node.all_processes["raylet"]
    os.kill(raylet.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(raylet.process.pid, signal.SIGCONT)
