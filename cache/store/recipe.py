"""Recipe → canonical JSON → key.

A recipe is a flat JSON object with everything that determines the numbers of a feature set. This
package reads three of its fields, to name folders (``backbone``, ``layer``, ``pooling``); the rest
is the business of whoever computes the features.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

JsonValue = str | int | float | bool | None | Sequence["JsonValue"]
Recipe = Mapping[str, JsonValue]


def canonical_json(recipe: Recipe) -> str:
    """Write a recipe so that equal recipes give equal text: sorted keys, no spaces, no NaN."""
    return json.dumps(dict(recipe), sort_keys=True, separators=(",", ":"), allow_nan=False)


def recipe_key(recipe: Recipe) -> str:
    """Return the feature set's key: the SHA-256 of the canonical JSON, 64 hex digits."""
    return hashlib.sha256(canonical_json(recipe).encode()).hexdigest()
