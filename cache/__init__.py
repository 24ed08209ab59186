"""Activations on disk: recipes, shards, the store and its views. No images, no TensorFlow."""
