"""What goes wrong with pictures and models, and how names are shown in messages."""

from __future__ import annotations

import os

from vecstore import VecstoreError


class ImageError(VecstoreError, ValueError):
    """A picture that cannot be read: what it is, and why.

    >>> issubclass(ImageError, ValueError)
    True
    """


class ModelError(VecstoreError, ValueError):
    """A model that is not there, or that cannot do what was asked.

    >>> issubclass(ModelError, ValueError)
    True
    """


def shown(name: object) -> str:
    r"""A name as one printable line: a line break or a terminal's control codes in it do no harm.

    >>> shown("two\nlines")
    'two\\nlines'
    """
    text = os.fsdecode(name) if isinstance(name, (bytes, os.PathLike)) else str(name)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
