"""A cache folder: its layout, feature sets, index, and the leases of who computes what.

Stands on `shards`; `views` and `upkeep` may import it.
"""
