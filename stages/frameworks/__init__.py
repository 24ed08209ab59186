"""Keras started with care, and model files of strangers checked before they are opened.

Imports no other room; `presets`, `backbones`, `engines`, `heads` and `export` may import it.
"""
