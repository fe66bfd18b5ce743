"""``python -m runcast``: the command line."""

import sys

from runcast.cli import main

if __name__ == "__main__":
    sys.exit(main())
