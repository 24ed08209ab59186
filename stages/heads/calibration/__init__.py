"""Calibrated heads: probabilities made to mean what they say, on rows that were not fitted on.

A part of `heads`, which alone may import it.
"""
