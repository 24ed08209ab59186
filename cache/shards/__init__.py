"""One immutable shard written and read, and rows read out of many.

Stands on `disk` and `hdf5`; `store`, `views` and `upkeep` may import it.
"""
