"""Permafrost in Python: frozen backbones in scikit-learn, and what ``extract`` wrote.

A backbone as the first step of a pipeline, over the same cache as the command line::

    from pathlib import Path
    from permafrost import BackboneFeatures
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    paths = sorted(Path("photos").glob("*/*.jpg"))
    model = make_pipeline(BackboneFeatures("vgg16", "block5_pool:avg"), LogisticRegression())
    model.fit(paths, [path.parent.name for path in paths])

Features that are there already, as NumPy, Dask, TensorFlow or pandas::

    from permafrost import open_features

    with open_features("features.h5") as features:
        X, y = features.to_numpy("block5_pool:avg"), features.labels
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from permafrost.pipeline.api.reader import open_features
    from permafrost.pipeline.api.transformer import BackboneFeatures

__all__ = ["BackboneFeatures", "open_features"]

# A wheel holds pipeline, stages and cache in this folder; in a checkout they lie beside it.
if not (Path(__file__).parent / "pipeline").is_dir():
    __path__.append(str(Path(__file__).parent.parent))


def __getattr__(name: str) -> Any:
    # The command line starts faster without either, and reading without scikit-learn.
    if name == "open_features":
        from permafrost.pipeline.api.reader import open_features

        return open_features
    if name == "BackboneFeatures":
        from permafrost.pipeline.api.transformer import BackboneFeatures

        return BackboneFeatures
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
