"""A frozen network: which one, its weights, its layers, and how they are preprocessed and pooled.

Stands on `frameworks`, `presets` and `shortcuts`; `engines` and `export` may import it.
"""
