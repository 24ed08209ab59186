"""Rows with labels, splits, groups and truth, out of a source and tables.

Stands on `sources`; `heads` and `evaluation` may import it.
"""
