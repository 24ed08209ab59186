"""The heads that are Keras networks: their layers, their training and their files.

Part of `heads`, whose registry alone imports it.
"""
