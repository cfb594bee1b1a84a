"""The command ``vecstore``: thin commands over the library's public names.

Exit status: 0 done, 1 failed (one line on standard error, no traceback), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import warnings
from collections.abc import Sequence

import vecstore
from vecstore.cli import ask, care, copies, demo, exports, fields, imports, pictures, quality
from vecstore.cli.output import CommandError, one_line

__all__ = ["main"]

_EXAMPLE = """examples:
  vecstore demo
  vecstore index photos/ photos.vec
  vecstore search photos.vec query.jpg -k 20 --html result.html
  vecstore import photos.jsonl photos.vec --metric cosine
  vecstore search photos.vec query.npy -k 5
  vecstore info photos.vec --json

exit status: 0 done, 1 failed, 2 wrong usage"""

# argparse takes "-0.5,0.25" for an option, unless a space stands before it.
_NEGATIVE_VECTOR = re.compile(r"-(?:\d|\.\d)[^\s,]*,")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit status."""
    plain, warnings.formatwarning = warnings.formatwarning, _warned
    try:
        options = _parser().parse_args(_spaced(sys.argv[1:] if arguments is None else arguments))
        status: int = options.run(options)
        sys.stdout.flush()
    except SystemExit as stop:  # argparse has said what is wrong, or has shown its help
        return stop.code if isinstance(stop.code, int) else 2
    except BrokenPipeError:
        _close_output()
        return 1
    except KeyboardInterrupt:
        return 130
    except (CommandError, vecstore.VecstoreError, OSError, MemoryError) as error:
        print(f"vecstore: {one_line(error)}", file=sys.stderr)
        return 1
    finally:
        warnings.formatwarning = plain
    return status


def _warned(message: Warning | str, *_: object, **__: object) -> str:
    """A warning as one line, like an error: where in the code it arose says nothing to who typed a command."""
    return f"vecstore: {one_line(message if isinstance(message, Warning) else Warning(message))}\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vecstore",
        description="An embedded, on-disk vector store: one file is one collection.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"vecstore {vecstore.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (pictures, ask, copies, quality, care, fields, exports, imports, demo):
        module.add_commands(commands)
    return parser


def _spaced(arguments: Sequence[str]) -> list[str]:
    """Arguments as argparse takes them. An option -0 of its own would make it take -0.5 for one too."""
    spaced = []
    for before, text in zip(["", *arguments], arguments, strict=False):
        if _NEGATIVE_VECTOR.match(text) and before != "--id":
            spaced.append(f" {text}")
        else:
            spaced.append("--null" if text == "-0" and before not in ("--id", "--radius") else text)
    return spaced


def _close_output() -> None:
    """Nobody reads on: what is still buffered goes nowhere, so that the exit stays quiet."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
