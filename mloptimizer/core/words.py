"""Says counts, errors and the time of day in the same words everywhere."""

from datetime import UTC, datetime


def counted(number: object, noun: str) -> str:
    """Return the number with its noun, for instance ``1 trial`` or ``2 trials``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def in_a_line(error: BaseException, longest: int | None = None) -> str:
    """Return the text of the error without its line breaks, at most so many characters of it."""
    return " ".join(str(error).split())[:longest]


def utc_now(timespec: str = "milliseconds") -> str:
    """Return the time of day as records have it: ISO 8601, in UTC."""
    return datetime.now(UTC).isoformat(timespec=timespec)


def utc_stamp() -> str:
    """Return the time of day as rows of hardware logs and epochs have it: ISO 8601 with a Z."""
    return utc_now().replace("+00:00", "Z")


def read_time(text: object) -> datetime | None:
    """Return the time of day in UTC that a record tells; None where it is none."""
    try:
        time = datetime.fromisoformat(text)  # type: ignore[arg-type]
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        return None
