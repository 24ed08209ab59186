"""The setting ``scale``, which is one thing for all heads."""

from __future__ import annotations

from stages.heads.settings import choice
from stages.scaling import SCALES

SCALES_WANTED = f"one of {', '.join(SCALES)}"
parse_scale = choice(*SCALES)
