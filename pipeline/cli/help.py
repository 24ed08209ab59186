"""Help: options with their defaults, and examples to copy."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from permafrost.command import COMMAND

# Set on an option whose default is that of a field, and not the parser's own.
DEFAULT_OF_FIELD = "shown_default"
_PHOTOS = "--images photos/ --split test=0.3"
_EXTRACTED = f"{_PHOTOS} --backbone vgg16 --layers block2_pool:avg,block5_pool:avg"
# What people would type, of each command.
EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "demo": ("demo", "demo --out runs/demo"),
    "layers": ("layers vgg16", "layers 'mobilenet(alpha=0.25)'", "layers mine.keras"),
    "index": (
        "index photos/ --out manifest.csv --split test=0.3",
        r"index photos/ --out manifest.csv --labels 'filename:^(\w+)\.' --stats",
    ),
    "extract": (
        f"extract {_EXTRACTED} --out features.h5",
        "extract --manifest manifest.csv --backbone resnet50 --layers conv4_block6_out:avg"
        " --engine openvino --precision bfloat16 --out features.h5",
    ),
    "plan": (f"plan {_EXTRACTED}", f"plan {_EXTRACTED} --compare"),
    "fit": (
        "fit --features features.h5 --layer block5_pool:avg --head logreg --cv 5 --out runs/logreg",
        "fit --features features.h5 --layer block5_pool:avg --head mlp --set hidden=256"
        " --set dropout=0.6 --out runs/mlp",
    ),
    "sweep": (
        "sweep --features features.h5 --heads logreg,ridge,mlp --set C=0.01,0.1,1 --cv 5"
        " --out runs/sweep",
    ),
    "advise": ("advise --features features.h5", "advise --features a.h5 --features b.h5"),
    "audit": ("audit --features features.h5 --layer block5_pool:avg --out runs/audit",),
    "select": ("select --features features.h5 -n 100 --out next.csv",),
    "report": ("report runs/sweep", "report runs/scratch runs/transferred --out report.html"),
    "predict": ("predict --model runs/sweep/best --images new-photos/ --out predictions.csv",),
    "export": ("export --model runs/sweep/best --out classifier.keras",),
    "run": ("run experiment.yaml", "run experiment.yaml --dry-run"),
    "verify": ("verify --cache .permafrost", "verify --sample 0.01 --features features.h5"),
    "show": (
        "show .permafrost",
        "show runs/sweep",
        "show --image cat.jpg --model runs/logreg --out look.png",
        "show --image cat.jpg --backbone vgg16 --layers block1_pool,block3_pool",
    ),
    "search": (
        "search --features features.h5 --layer block5_pool:avg --image cat.jpg -n 5",
        "search --features features.h5 --layer image_embedding --text 'a cat on a red sofa'"
        " --out found.csv",
    ),
    "doctor": ("doctor", "doctor --cache /scratch/cache --json"),
    "completion": ("completion bash > ~/.local/share/bash-completion/completions/permafrost",),
    "repair": ("repair --cache .permafrost",),
    "gc": ("gc --keep-days 30 --dry-run", "gc --unused-by manifest.csv"),
    "compact": ("compact --cache .permafrost",),
}


def write_examples(command: str) -> str:
    """Return the examples of a command, to stand below its options."""
    return "\n".join(["examples:", *(f"  {COMMAND} {one}" for one in EXAMPLES[command])])


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Says the default of each option that has one and does not tell it itself."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        default = _write(getattr(action, DEFAULT_OF_FIELD, action.default))
        if not default or not action.option_strings or "default" in text:
            return text
        shown = default.replace("%", "%%")
        return f"{text} (default: {shown})" if text else f"default: {shown}"


def _write(value: object) -> str:
    """Write a default as it would be typed; nothing of what says nothing."""
    if value is None or value is argparse.SUPPRESS or isinstance(value, bool):
        return ""
    if isinstance(value, int) and value and not value % 10**9:
        return f"{value // 10**9}GB"
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value) if isinstance(value, str | int | float | Path) else ""
