"""Faster ways to the same activations that round otherwise, and whether a network bears them.

Imports no other room; `backbones` and `engines` may import it.
"""
