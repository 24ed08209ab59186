"""All damage of a cache found and put aside, and what nobody needs dropped or merged.

Stands on `store`; nothing else in the cache imports it.
"""
