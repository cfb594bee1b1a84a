"""Whether what searches read comes from the disk, so that it is worth asking for ahead of need."""

from __future__ import annotations

import threading

try:
    import resource
except ImportError:  # Windows, where nothing can be asked for
    _WHO = None
else:
    _WHO = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)

# So many looks without a read end it.
_PATIENCE = 8
# While nothing is read from the disk, one in so many short searches is looked after: a look takes as long as a
# tenth of one.
_GLANCES = 16


class Watch:
    """Looks after each search at what the system counts. Threads may share it."""

    def __init__(self) -> None:
        self._left = 0 if _WHO is None else _PATIENCE
        self._local = threading.local()
        self._glances = 0

    @property
    def cold(self) -> bool:
        return self._left > 0

    def look(self) -> None:
        """Note what this thread has read since it looked last."""
        if _WHO is None:
            return
        usage = resource.getrusage(_WHO)
        # What is asked for ahead counts as input, and no longer as a fault.
        read = usage.ru_inblock + usage.ru_majflt
        if read != getattr(self._local, "read", read):
            self._left = _PATIENCE
        elif self._left:
            self._left -= 1
        self._local.read = read

    def glance(self) -> None:
        """As ``look``, where searches are too short to look after each."""
        self._glances += 1
        if self._left or self._glances >= _GLANCES:
            self._glances = 0
            self.look()
