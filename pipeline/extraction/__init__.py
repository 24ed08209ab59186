"""The main job: what is missing is claimed, computed, written and reported.

Stands on `planning` and `forward`; `models` and `api` may import it.
"""
