"""``python -m fcos_d2.cli``: as ``fcos-d2``, but without its default for waiting threads."""

from . import main

if __name__ == "__main__":
    main()
