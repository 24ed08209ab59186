"""One page, as one file, that shows what fits, sweeps and experiments found.

May be imported by `pipeline.cli`.
"""
