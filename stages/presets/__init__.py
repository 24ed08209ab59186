"""KerasHub's presets: found, checked as strangers' files are, loaded, and taken apart into layers.

Stands on `frameworks`; `backbones` may import it.
"""
