"""The command: ``python run.py --help``."""

import sys

from pipeline.signals import leave_when_asked


def main() -> int:
    """Run the command of this process; return its exit status."""
    # Before the imports, which take long enough for a Ctrl-C.
    leave_when_asked()
    from pipeline.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
