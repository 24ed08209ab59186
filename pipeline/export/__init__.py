"""A fitted model on disk: its folder read and written, and written as one Keras model.

Stands on `planning`; `tasks` and `models` may import it.
"""
