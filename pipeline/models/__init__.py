"""A head fitted, measured and used on new images.

Stands on `tasks`, `export` and `extraction`; `sweeps` and `experiments` may import it.
"""
