"""The phases of a task: the values that `concurrent.futures.wait` and `as_completed` look for, and one more."""

PENDING = "PENDING"
RUNNING = "RUNNING"
CANCELLED_AND_NOTIFIED = "CANCELLED_AND_NOTIFIED"
FINISHED = "FINISHED"
FAILED = "FAILED"  # for others it is FINISHED


def shown(phase: str) -> str:
    """As the standard library has it."""
    return FINISHED if phase == FAILED else phase
