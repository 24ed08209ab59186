"""Bytes to pixels: a file's first picture decoded, checked, turned and resized.

Imports no other room, and none of `stages` imports it.
"""
