"""Programs that run a backbone on a batch: TensorFlow's, Keras' and OpenVINO's behind one registry.

Stands on `backbones`; no other room imports it.
"""
