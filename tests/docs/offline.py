"""The command line for pages of docs, without downloads: random weights for published ones."""

from __future__ import annotations

import sys

from permafrost.pipeline.cli.main import main
from permafrost.stages.backbones.applications import parse_backbone


def stay_offline(arguments: list[str]) -> list[str]:
    """Return the arguments with ``--weights random`` where they would have Keras download some."""
    if "--backbone" not in arguments or "--weights" in arguments:
        return arguments
    name = arguments[arguments.index("--backbone") + 1]
    backbone = parse_backbone(name)
    is_published = not backbone.is_saved and name != "none"
    return [*arguments, "--weights", "random"] if is_published else arguments


if __name__ == "__main__":
    sys.argv[1:] = stay_offline(sys.argv[1:])
    sys.exit(main())
