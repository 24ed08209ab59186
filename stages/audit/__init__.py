"""What is suspicious about a dataset, and which of its rows are worth a label: arithmetic alone.

May be imported by `pipeline/audit`; imports datasets, decoding, evaluation and matrices.
"""
