"""The small neural network as a head: its layers, its training and its file.

Part of `heads`, whose registry alone imports it.
"""
