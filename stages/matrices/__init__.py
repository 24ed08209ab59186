"""Features larger than memory: read, scaled and reduced in pieces that fit.

Imports no other room; `heads` and `evaluation` may import it.
"""
