"""``python -m vecstore`` is the command ``vecstore``."""

from vecstore.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
