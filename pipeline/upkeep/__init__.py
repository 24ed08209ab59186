"""Commands on a whole cache: verify, repair, gc and compact.

Stands on `planning` and `forward`; the command line imports it.
"""
