"""What to try next, from a probe of all cached layers and what is on record of their backbones.

Stands on `experiments`, whose files it writes; `cli` may import it.
"""
