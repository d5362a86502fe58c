"""Room on the stack: RecursionError before a step that must not fail, not in the midst of it."""

from __future__ import annotations

import sys


def headroom() -> None:
    """Raise RecursionError now rather than in the middle of `Runner.run`, whose own steps must not fail."""
    if sys.version_info >= (3, 12):  # before that, calls in C count as well
        limit = sys.getrecursionlimit()
        try:
            sys._getframe(min(limit // 2, limit - 80))
        except ValueError:  # there are fewer frames than that; a quarter of what 60 calls take
            return
    descend(60)


def descend(levels: int) -> None:
    """Use `levels` of the stack, and a few more."""
    if levels:
        descend(levels - 1)
