"""The command line: arguments in, one command called, a few lines or one JSON object out.

Stands on every other room; only the package's entry point imports it.
"""
