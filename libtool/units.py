"""Sizes, spans and times as people write them and as machines keep them.

Sizes are whole bytes, spans are seconds, times are aware UTC. The database keeps times as microseconds since 1970;
our JSON ends them with ``Z``; stock peers get naive UTC with microseconds.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

UTC = timezone.utc
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_SPANS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15}
_SIZES |= {f"{prefix}i": 1024**n for n, prefix in enumerate("kmgtp", 1)}


def parse_span(text: str | int | float) -> float:
    """Seconds of ``"90"``, ``"90s"``, ``"10m"``, ``"1.5h"``, ``"7d"``, ``"1h30m"`` or ``"00:10:00"``.

    Raises ValueError with what was expected.
    """
    if isinstance(text, bool) or not isinstance(text, (str, int, float)):
        raise ValueError("expected a span such as 90s, 10m, 2h or 7d")
    if isinstance(text, (int, float)):
        seconds = float(text)
    elif re.fullmatch(r"\d+:\d\d(:\d\d)?", text.strip()):
        parts = [int(part) for part in text.strip().split(":")]
        hours, minutes, rest = ([0] * (3 - len(parts)) + parts) if len(parts) == 2 else parts
        seconds = float(hours * 3600 + minutes * 60 + rest)
    else:
        found = re.findall(r"(\d+(?:\.\d+)?)\s*([smhdw]?)", text.strip().lower())
        if not found or "".join(n + u for n, u in found) != re.sub(r"\s+", "", text.strip().lower()):
            raise ValueError("expected a span such as 90s, 10m, 2h or 7d")
        seconds = sum(float(number) * _SPANS[unit or "s"] for number, unit in found)
    if not 0 <= seconds < 10**10:
        raise ValueError("expected a span between 0s and 300 years")
    return seconds


def show_span(seconds: float) -> str:
    """A span in its largest whole unit: ``90`` → ``"90s"``, ``7200`` → ``"2h"``."""
    whole = int(seconds)
    for unit in "wdhm":
        if whole and whole % _SPANS[unit] == 0:
            return f"{whole // _SPANS[unit]}{unit}"
    return f"{whole}s"


def counted(count: int, what: str) -> str:
    """``1, "file"`` → ``"1 file"``, ``2, "file"`` → ``"2 files"``."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def are(count: int) -> str:
    """The verb for that many."""
    return "is" if count == 1 else "are"


def about(seconds: float) -> str:
    """A span for people: long ones in whole days or hours, others exactly."""
    if seconds >= 2 * 86400:
        return f"{int(seconds // 86400)}d"
    return f"{int(seconds // 3600)}h" if seconds >= 7200 else show_span(seconds)


def parse_size(text: str | int) -> int:
    """Bytes of ``"100"``, ``"20T"``, ``"1.5GiB"``. Raises ValueError with what was expected."""
    if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        return text
    spelled = text.strip().lower() if isinstance(text, str) else ""
    found = re.fullmatch(r"(\d{1,30})(\.\d{1,30})?\s*([kmgtp]?i?)b?", spelled, re.ASCII)
    if not found or found[3] not in _SIZES:
        raise ValueError("expected a size such as 100, 20GB or 1.5TiB")
    factor = _SIZES[found[3]]
    return int(found[1]) * factor + int(float(found[2] or 0) * factor)


def show_size(size: int) -> str:
    """A size for people, in decimal units: ``4096`` → ``"4.1 kB"``."""
    if size < 1000:
        return f"{size} B"
    value, prefixes = size / 1000, "kMGTPE"
    while value >= 999.95 and len(prefixes) > 1:
        value, prefixes = value / 1000, prefixes[1:]
    return f"{value:.1f} {prefixes[0]}B"


def to_microseconds(time: datetime) -> int:
    """Microseconds since 1970 of an aware time; naive times are refused because nobody knows what they mean."""
    if time.tzinfo is None:
        raise ValueError("a time without a zone was about to be stored")
    return (time - _EPOCH) // _MICROSECOND


def from_microseconds(count: int) -> datetime:
    """The aware UTC time ``count`` microseconds after 1970."""
    return _EPOCH + timedelta(microseconds=count)


def show_time(time: datetime | None) -> str | None:
    """``2026-11-21T07:35:32.134333Z``; None stays None."""
    return None if time is None else time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def stock_time(time: datetime) -> str:
    """The same instant as a stock server writes it: naive UTC with microseconds."""
    return time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds")


def parse_time(text: str | int | float) -> datetime:
    """An aware UTC time from ISO 8601 (naive means UTC, ``Z`` and offsets are taken) or from epoch seconds."""
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        return _EPOCH + timedelta(seconds=text)
    spelled = str(text).strip().replace("Z", "+00:00").replace("z", "+00:00")
    spelled = re.sub(r"\.(\d{1,6})\d*", lambda m: "." + m[1].ljust(6, "0"), spelled)
    time = datetime.fromisoformat(spelled)
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
