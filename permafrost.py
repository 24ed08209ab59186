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

from typing import TYPE_CHECKING, Any

from pipeline.reading import open_features

if TYPE_CHECKING:
    from pipeline.transformer import BackboneFeatures

__all__ = ["BackboneFeatures", "open_features"]


def __getattr__(name: str) -> Any:
    # Importing scikit-learn takes longer than opening a file of features.
    if name == "BackboneFeatures":
        from pipeline.transformer import BackboneFeatures

        return BackboneFeatures
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
