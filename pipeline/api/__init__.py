"""From Python: features read as arrays and tables, and a backbone as a scikit-learn transformer.

Stands on `extraction`; the face of the package imports it.
"""
