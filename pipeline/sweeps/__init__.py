"""Many layers, heads and settings tried on the same folds, and ranked.

Stands on `models`; `experiments` may import it.
"""
