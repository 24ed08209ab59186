"""All of it from one file, and the demonstration on embedded data.

Stands on `sweeps` and `audit`; the command line imports it.
"""
