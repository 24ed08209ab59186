"""What measurements say of a data set, and what to try next: pure rules and figures.

Stands on `datasets`, `matrices` and `evaluation`; `pipeline.advice` composes it.
"""
