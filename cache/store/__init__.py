"""A cache folder: its layout, its feature sets, the index beside them and the leases of who computes what.

Stands on `shards`; `views` and `upkeep` may import it.
"""
