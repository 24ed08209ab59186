"""A dataset's rows as ``features.h5``: written over the shards, and read with every check.

Stands on `store`; nothing else in the cache imports it.
"""
