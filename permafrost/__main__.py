"""The command: ``permafrost``, ``python -m permafrost`` and, in a checkout, ``python run.py``."""

import sys

if sys.platform == "win32":
    sys.exit("permafrost runs on Linux and macOS; on Windows, run it in WSL")

from permafrost.pipeline.cli.signals import leave_when_asked


def main() -> int:
    """Run the command of this process; return its exit status."""
    # Before the imports, which take long enough for a Ctrl-C.
    leave_when_asked()
    from permafrost.pipeline.cli.main import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
