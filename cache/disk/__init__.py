"""Files published whole or not at all, locks between processes, and clearing up after killed ones.

Knows nothing of HDF5 or features; everything in the cache may import it.
"""
