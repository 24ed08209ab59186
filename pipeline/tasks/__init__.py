"""What heads learn from: rows with their truth, layers as matrices, and what is asked of both.

Layers are written as tables for other tools here, too. Stands on `export`, whose models may be
backbones; `models` and what stands on that may import it.
"""
