"""All of it from one file, and the demonstration on embedded data.

Stands on `sweeps`; the command line imports it.
"""
