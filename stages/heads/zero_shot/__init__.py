"""The head `zero_shot`: classes by their names, as a preset's text tower understands them.

It belongs to `heads`, and may import what heads may.
"""
