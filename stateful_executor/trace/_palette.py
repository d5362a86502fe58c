"""The colours of both pictures, and what they mean."""

from __future__ import annotations

from ._timeline import Block, Timeline, names_by_time

OF_TASKS = ("#4c78a8", "#54a24b", "#b279a2", "#72b7b2", "#eeca3b", "#9d755d", "#2f4b7c")
OTHER_TASKS = "#8a8f98"
IDLE, FAILED, BACKLOG, BLOCKED, SCOPE = "#e9e9ec", "#e4211c", "#4c78a8", "#c51b7d", "#b9c6d6"
OF_KIND = {"make": "#f58518", "check": "#ffbf79", "reset": "#ffbf79", "teardown": "#a0560a"}
KINDS = {"make": "state made", "check": "state checked or reset", "teardown": "state torn down"}
OF_LIMIT = {
    "busy": "#bfe3b9",
    "states": "#f58518",
    "backlog": "#c51b7d",
    "handover": "#fff0a8",
    "starved": "#a9afb9",
    "none": "#ffffff",
}


def colours_of(timeline: Timeline) -> dict[str, str]:
    """Of the functions that took most of the time; all others are `OTHER_TASKS`."""
    return dict(zip(names_by_time(timeline), OF_TASKS, strict=False))


def colour_of(block: Block, of_names: dict[str, str]) -> str:
    """The paler the more idle time there is between the spans that are drawn as one."""
    colour = of_names.get(block.name, OTHER_TASKS) if block.kind == "task" else OF_KIND.get(block.kind, OTHER_TASKS)
    length = block.end - block.begin
    if block.spans == 1 or length <= 0:
        return colour
    return mixed(IDLE, colour, 0.15 + 0.85 * min(1.0, block.busy / length))


def mixed(one: str, other: str, share: float) -> str:
    """`share` of the `other` colour, and `one` for the rest."""
    pairs = zip(bytes.fromhex(one[1:]), bytes.fromhex(other[1:]), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def height_of(depth: int) -> float:
    """Of a bar in a lane: what runs in place stands inside of the task that waits for it."""
    return float(0.84 * 0.7 ** min(depth, 5))
