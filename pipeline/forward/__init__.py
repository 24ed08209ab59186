"""Images to activations: batches loaded ahead, run through a program, and compared with a reference.

Stands on `planning`; `extraction` and `upkeep` may import it.
"""
