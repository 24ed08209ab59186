"""The main job: what is missing is computed, then mapped by ``features.h5``, and reported.

Stands on `planning`, `forward` and `computing`; `models` and `api` may import it.
"""
