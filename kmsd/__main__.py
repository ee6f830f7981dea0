"""`python -m kmsd`, and the script `kmsd`."""

from kmsd.cli import main

if __name__ == "__main__":
    main()
