"""When a delivery that failed is tried again. Apart because it is arithmetic alone, tested without a database."""

GIVE_UP_AFTER_S = 72 * 3600
FIRST_WAIT_S = 5.0
LONGEST_WAIT_S = 6 * 3600.0


def wait_before(attempt: int) -> float:
    """Seconds between attempt number `attempt` (from 1) and the next: 5 s, 20 s, 80 s … up to six hours."""
    return min(LONGEST_WAIT_S, FIRST_WAIT_S * 4.0 ** min(attempt - 1, 10))


def next_attempt(*, first_at: float, attempt: int, now: float) -> float | None:
    """Unix seconds of the next attempt, or None when 72 hours after the first it is time to give up."""
    at = now + wait_before(attempt)
    return at if at <= first_at + GIVE_UP_AFTER_S else None
