"""How good a head is, and where it looks: folds, metrics, intervals; class maps, neighbours.

Stands on `heads`; no other room imports it.
"""
