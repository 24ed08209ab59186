"""Where a head looks in one image, and what the layers of a network make of it: figures, pictures.

Stands on `extraction`, `export`, `tasks` and below; `report` and the command line import it.
"""
