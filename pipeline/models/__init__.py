"""A head fitted, measured, kept, used on new images and exported.

Stands on `extraction`; `sweeps` and `experiments` may import it.
"""
