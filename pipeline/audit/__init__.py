"""What is suspicious about a dataset, and what to label next, out of cached features.

May be imported by `experiments`, `report` and `cli`; imports planning, extraction, export, tasks
and models.
"""
