"""Where an engine keeps what it made of a network: among what is derived from a feature set."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from permafrost.cache.store.derived import Artefacts
from permafrost.stages.engines.openvino_model import describe_conversion
from permafrost.stages.engines.program import ProgramSpec
from permafrost.stages.frameworks.start import find_keras_settings

if TYPE_CHECKING:
    from permafrost.pipeline.planning.prepare import Preparation

# A disk that is nearly full is left to the features: this many times the size has to be free.
_FREE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptModel:
    """A model that any start may load which needs the same, see `stages.engines.program.Keep`.

    Attributes
    ----------
    folder : Path
        Of a feature set that it computes.
    name : str
        Digest of all that it depends on, in lower-case hex.
    """

    folder: Path
    name: str

    def load(self) -> NDArray[np.uint8] | None:
        """Return its bytes, whose checksum is right; None where it has to be made."""
        return Artefacts(self.folder).load(self.name)

    def save(self, values: NDArray[np.uint8]) -> None:
        """Keep its bytes, shape (n,), if there is room enough."""
        with contextlib.suppress(OSError):  # No folder: the log says so when it is written.
            if shutil.disk_usage(self.folder).free < _FREE * values.nbytes:
                return
        Artefacts(self.folder).save(self.name, values)


def place_model(prepared: Preparation, spec: ProgramSpec) -> KeptModel:
    """Find the place of OpenVINO's model of a plan; this imports OpenVINO."""
    first, *_ = prepared.plan.of_network
    layers = prepared.backbone.card.layers
    facts = describe_program(prepared, spec) | {
        # Of digests alone it does not follow, as recipes know.
        "channel_axes": [layers[one.layer].channel_axis for one in spec.layers],
        "numerics": first.recipe["numerics"],
        "settings": find_keras_settings(),
        **describe_conversion(),
    }
    return KeptModel(folder=first.features.folder, name=digest_facts(facts))


def describe_program(prepared: Preparation, spec: ProgramSpec) -> dict[str, Any]:
    """Return what a program computes, its weights included."""
    card = prepared.backbone.card
    return {
        "layers": [[str(one), card.layers[one.layer].digest] for one in spec.layers],
        "size": card.size,
        "preprocess": spec.preprocess,
        "view": spec.view,
        "precision": spec.precision,
    }


def digest_facts(facts: dict[str, Any]) -> str:
    """Return the SHA-256 of facts, in hex."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
