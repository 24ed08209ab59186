"""Backbone, pooling and head as one Keras model.

Stands on `backbones` and `heads`; no other room imports it.
"""
