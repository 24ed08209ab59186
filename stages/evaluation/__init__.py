"""How good a head is: folds, cross-validation, metrics and their intervals.

Stands on `heads`; no other room imports it.
"""
