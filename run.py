"""The command in a checkout: ``python run.py --help``."""

import sys

from permafrost.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
