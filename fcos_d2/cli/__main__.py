"""``python -m fcos_d2.cli``, the same as ``fcos-d2`` except that it sets no OpenMP variable."""

from . import main

if __name__ == "__main__":
    main()
