"""`python -m sim`, with tests/ on the path."""

import sys

from .runner import main

if __name__ == "__main__":
    sys.exit(main())
