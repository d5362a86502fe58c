"""What the fragments of docs/scale.md talk about; without a Ray cluster, whose part threads play."""

import sys
from types import SimpleNamespace

from stateful_executor import StatefulThreadPoolExecutor

questions = range(3)


def load_model():
    return "model"


def ask(model, question):
    return f"{model} answers {question}"


def print(*answers):  # noqa: A001  # the page does not say what they are
    pass


def on_threads(max_workers, initializer, *, max_backlog, actor_options):
    return StatefulThreadPoolExecutor(2, initializer=initializer, max_backlog=max_backlog)


sys.modules["ray"] = SimpleNamespace(init=print)
sys.modules["stateful_executor.ray"] = SimpleNamespace(StatefulRayExecutor=on_threads)
