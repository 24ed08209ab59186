"""What is known before computing: dataset, backbone, recipe, and the rows that are missing.

Loads no TensorFlow; every other room of the pipeline may import it.
"""
