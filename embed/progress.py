"""How far a run over a folder has come, how fast it is, and where its time goes: one line in a terminal."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any

_WIDTH = 10
_PAUSE = 0.1


class Line:
    """Writes itself anew ten times a second; silent where the stream is no terminal.

    >>> import io
    >>> line = Line(io.StringIO())
    >>> line.show(1, 2, {"decode": 1.0})
    """

    def __init__(self, stream: Any = None) -> None:
        stream = sys.stderr if stream is None else stream
        self._stream = stream if stream is not None and stream.isatty() else None
        self._start: float | None = None
        self._first = 0
        self._last = 0.0

    def show(self, done: int, total: int, seconds: Mapping[str, float]) -> None:
        """So many of so many files are done, and each stage took so many seconds."""
        now = time.monotonic()
        if self._start is None:
            # What was known already took no time, and says nothing of the rate.
            self._start, self._first = now, done
        if self._stream is None or (now - self._last < _PAUSE and done < total):
            return
        self._last = now
        text = told(done, total, done - self._first, now - self._start, seconds)
        columns = shutil.get_terminal_size((80, 24)).columns
        self._stream.write(f"\r\x1b[K{text[: columns - 1]}")
        self._stream.flush()

    def clear(self) -> None:
        """Leave nothing behind."""
        if self._stream is not None:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def told(done: int, total: int, made: int, passed: float, seconds: Mapping[str, float]) -> str:
    """The line itself.

    >>> told(600, 1000, 500, 10.0, {"read": 1.0, "decode": 6.0, "embed": 3.0, "commit": 0.01})
    '[######----] 600 of 1,000  50/s  8 s left  decode 60 % embed 30 % read 10 %'
    """
    filled = _WIDTH * done // total if total else _WIDTH
    parts = [f"[{'#' * filled}{'-' * (_WIDTH - filled)}] {done:,} of {total:,}"]
    if made and passed > 0:
        rate = made / passed
        parts.append(f"{rate:,.0f}/s")
        if done < total:
            parts.append(f"{_lasting((total - done) / rate)} left")
    whole = sum(seconds.values())
    shares = sorted(((took / whole, stage) for stage, took in seconds.items() if whole), reverse=True)
    parts.append(
        " ".join(f"{stage} {share:.0%}".replace("%", " %") for share, stage in shares if share >= 0.01)
    )
    return "  ".join(part for part in parts if part)


def _lasting(seconds: float) -> str:
    """
    >>> _lasting(8.2), _lasting(75), _lasting(7300)
    ('8 s', '1:15', '2:01:40')
    """
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
