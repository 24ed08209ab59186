"""Images to activations: batches loaded ahead, run, and compared with a reference.

Stands on `planning`; `computing`, `extraction` and `upkeep` may import it.
"""
