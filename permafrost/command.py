"""What people type to run this command, as messages say it, and from where Python finds it."""

from __future__ import annotations

import sys
from pathlib import Path

# In a checkout and where it is installed: ``python -m permafrost.…`` of a child is run there.
HOME = Path(__file__).parent.parent
# The script lies beside this package in a checkout, and is not installed.
IS_CHECKOUT = (HOME / "run.py").is_file()
# What starts it from any folder, as a program does.
PROGRAM = (sys.executable, *((str(HOME / "run.py"),) if IS_CHECKOUT else ("-m", "permafrost")))
COMMAND = "python run.py" if IS_CHECKOUT else "permafrost"
