"""HDF5 files written reproducibly and opened distrustfully, sealed with checksums.

Knows no shard and no folder of a cache; everything in the cache but `disk` may import it.
"""
