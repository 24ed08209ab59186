"""What a newcomer writes, after Keras' and TensorFlow's tutorials: the figure to beat.

::

    python tests/benchmarks/keras_idiom.py FOLDER OUT.h5 --model VGG16 --layers block5_pool
"""

from __future__ import annotations

import argparse
import sys

import h5py
import keras
import tensorflow as tf

parser = argparse.ArgumentParser(description="Features of a folder of images, the usual way.")
parser.add_argument("folder", help="one subfolder of images a class")
parser.add_argument("out", help="the HDF5 file to write")
parser.add_argument("--model", default="VGG16", help="a model of keras.applications")
parser.add_argument("--layers", default="block2_pool,block5_pool", help="separated by commas")
parser.add_argument("--batch-size", type=int, default=32)
args = parser.parse_args()

build = getattr(keras.applications, args.model)
preprocess_input = sys.modules[build.__module__].preprocess_input
base = build(weights=None, include_top=False, input_shape=(224, 224, 3))
outputs = {name: base.get_layer(name).output for name in args.layers.split(",")}
model = keras.Model(base.input, outputs)

images = keras.utils.image_dataset_from_directory(
    args.folder, label_mode=None, image_size=(224, 224), batch_size=args.batch_size, shuffle=False
)
features = model.predict(images.map(preprocess_input).prefetch(tf.data.AUTOTUNE))

with h5py.File(args.out, "w") as file:
    file["path"] = images.file_paths
    for name, values in features.items():
        file[name] = values
