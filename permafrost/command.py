"""What people type to run this command, as messages say it."""

from __future__ import annotations

from pathlib import Path

# The script lies beside this package in a checkout, and is not installed.
_SCRIPT = Path(__file__).parent.parent / "run.py"

IS_CHECKOUT = _SCRIPT.is_file()
COMMAND = "python run.py" if IS_CHECKOUT else "permafrost"
