"""Where a head looks in one image, and what the layers of a network make of it: figures, pictures.

Stands on `extraction`, `export`, `tasks` and below; the command line imports it.
"""
