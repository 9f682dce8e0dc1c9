"""How much a project or a key may use, and the bucket that lets requests through at a rate."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Limits:
    """None: nothing said here, the next level decides (key, project, setting). 0: no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_running_jobs: int | None = None
    max_jobs_per_day: int | None = None
    max_storage_bytes: int | None = None
    monthly_budget: int | None = None  # millionths of the price table's currency
    warning_percent: int | None = None  # of the budget; a mail goes out when it is crossed

    def over(self, fallback: "Limits") -> "Limits":
        """These, and the fallback's where these say nothing."""
        return replace(fallback, **{name: value for name, value in vars(self).items() if value is not None})


@dataclass(frozen=True)
class Bucket:
    """Holds what may still be used at once; fills up at the limit's rate within a minute."""

    left: float
    updated_at: float

    def filled(self, limit: int, now: float) -> "Bucket":
        """As it stands now. A clock that steps back adds nothing and takes nothing."""
        elapsed = max(0.0, now - self.updated_at)
        return Bucket(min(float(limit), self.left + elapsed * limit / 60), max(now, self.updated_at))

    def without(self, amount: float) -> "Bucket":
        """May go below zero: an answer that grew longer than expected is paid for by waiting."""
        return Bucket(self.left - amount, self.updated_at)

    def seconds_until(self, amount: float, limit: int) -> float:
        """How long until `amount` is there."""
        return max(0.0, (amount - self.left) * 60 / limit)
