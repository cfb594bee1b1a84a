"""How a collection is opened for ``asyncio``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vecstore.aio import Opening


def aopen(path: str | os.PathLike[str], **options: Any) -> Opening:
    """Open a collection for ``asyncio``: ``open`` with the same options, whose calls are awaited and never block the loop.

    ``async with aopen(…) as collection`` closes it at the end; ``await aopen(…)`` leaves that to ``await collection.close()``.

    >>> import asyncio, vecstore
    >>> async def main():
    ...     async with vecstore.aopen("loop.vec", dim=2) as shoes:
    ...         await shoes.add(["a", "b"], [[1, 0], [0, 1]])
    ...         return (await shoes.search([1, 0], k=1)).ids
    >>> asyncio.run(main())
    ['a']
    """
    # Few programs need it, and asyncio takes long to import.
    from vecstore.aio import Opening

    return Opening(path, options)
