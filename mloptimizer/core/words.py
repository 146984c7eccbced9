"""Writes counts, errors and times the same way everywhere."""

from datetime import UTC, datetime


def counted(number: object, noun: str) -> str:
    """Return the number with its noun, for example ``1 trial`` or ``2 trials``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def in_a_line(error: BaseException, longest: int | None = None) -> str:
    """Return the error's text without line breaks, cut to the longest length."""
    return " ".join(str(error).split())[:longest]


def utc_now(timespec: str = "milliseconds") -> str:
    """Return the time in UTC as in records: ISO 8601."""
    return datetime.now(UTC).isoformat(timespec=timespec)


def utc_stamp() -> str:
    """Return the time as in hardware logs and epochs: ISO 8601 with a Z."""
    return utc_now().replace("+00:00", "Z")


def read_time(text: object) -> datetime | None:
    """Return the time in UTC from a record's text; None if it is not a time."""
    try:
        time = datetime.fromisoformat(text)  # type: ignore[arg-type]
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        return None
