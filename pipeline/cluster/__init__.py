"""Many machines: the rows that are missing are given to a Dask cluster's workers, claim by claim.

Stands on `planning`, `forward` and `computing`; `extraction` may import it.
"""
