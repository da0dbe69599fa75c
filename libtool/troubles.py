"""What every error of libtool is: its message, what it means for the data, the command that comes next, and its exit code."""

from __future__ import annotations

from typing import Any, ClassVar

#: Meaning of every exit code; the README's table is compared with this.
EXIT_CODES = {
    0: "done, or nothing to do",
    1: "failed",
    2: "wrong usage",
    3: "some items failed or were postponed, the others are done",
    4: "a person must act: log in, give consent, resolve a conflict",
    75: "another run of this command holds the lock (silent)",
    78: "the configuration is wrong",
    130: "interrupted",
    143: "terminated",
}


class LibtoolError(Exception):
    """What happened (``message``), what it means (``meaning``) and what to do next (``remedy``)."""

    message: ClassVar[str] = "{why}"
    meaning: ClassVar[str] = ""
    remedy: ClassVar[str] = ""
    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500

    def __init__(self, **facts: Any) -> None:
        self.facts = facts
        super().__init__(self.reason)

    def _filled(self, template: str) -> str:
        return template.format(**{key: _one_line(value) for key, value in self.facts.items()})

    @property
    def reason(self) -> str:
        """What happened, on one line."""
        return self._filled(self.message)

    @property
    def advice(self) -> str:
        """What it means for the data and what to do next, on one line; may be empty."""
        return " ".join(part for part in (self._filled(self.meaning), self._filled(self.remedy)) if part)

    @property
    def extra(self) -> dict[str, Any]:
        """Fields that a peer is told beside the reason."""
        return {}

    @property
    def text(self) -> str:
        """The whole error on one line."""
        said = self.reason.removesuffix(".")
        said = said if said.endswith("?") else f"{said}."
        return f"{said} {self.advice}" if self.advice else said

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), self.facts)


def _rebuilt(kind: type[LibtoolError], facts: dict[str, Any]) -> LibtoolError:
    return kind(**facts)


def _one_line(value: Any) -> Any:
    """Names and answers of others are data: they must not be able to forge lines in a log."""
    if not isinstance(value, str) or value.isprintable():
        return value
    text = value.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
