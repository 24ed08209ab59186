"""The ``head2toe`` head: the features of many layers that matter, and a linear head on them.

Only `heads` imports it, for its registry.
"""
