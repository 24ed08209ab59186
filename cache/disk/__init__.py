"""Files that get their names once their bytes are down, and what guards and cleans up after them.

Knows nothing of HDF5 or features; everything in the cache may import it.
"""
