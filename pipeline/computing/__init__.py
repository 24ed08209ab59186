"""What is missing, computed: rows are claimed, run through the backbone, written into the cache.

Stands on `planning` and `forward`; `extraction` and `api` may import it.
"""
