"""What a newcomer writes, after Keras' and TensorFlow's tutorials: the figure to beat.

::

    python tests/benchmarks/keras_idiom.py FOLDER OUT.h5 --model VGG16 --layers block5_pool
"""

from __future__ import annotations

import argparse
import json
import sys

import h5py
import keras
import tensorflow as tf

POOLINGS = {
    "avg": keras.layers.GlobalAveragePooling2D,
    "max": keras.layers.GlobalMaxPooling2D,
    "flatten": keras.layers.Flatten,
}

parser = argparse.ArgumentParser(description="Features of a folder of images, the usual way.")
parser.add_argument("folder", help="images, in class folders or not")
parser.add_argument("out", help="the HDF5 file to write")
parser.add_argument("--model", default="VGG16", help="a model of keras.applications")
parser.add_argument("--arguments", type=json.loads, default={}, help='of it, as {"alpha": 0.25}')
parser.add_argument("--weights", help="imagenet, or a file (default: random)")
parser.add_argument("--layers", default="block2_pool,block5_pool", help="as block5_pool:avg")
parser.add_argument("--size", type=int, nargs=2, default=(224, 224), help="height and width")
parser.add_argument("--batch-size", type=int, default=32)
args = parser.parse_args()

build = getattr(keras.applications, args.model)
preprocess_input = sys.modules[build.__module__].preprocess_input
base = build(weights=args.weights, include_top=False, input_shape=(*args.size, 3), **args.arguments)
outputs = {}
for spec in args.layers.split(","):
    name, _, pooling = spec.partition(":")
    output = base.get_layer(name).output
    outputs[spec] = POOLINGS[pooling]()(output) if pooling else output
model = keras.Model(base.input, outputs)

images = keras.utils.image_dataset_from_directory(
    args.folder,
    labels=None,
    image_size=tuple(args.size),
    batch_size=args.batch_size,
    shuffle=False,
)
features = model.predict(images.map(preprocess_input).prefetch(tf.data.AUTOTUNE))

with h5py.File(args.out, "w") as file:
    file["path"] = images.file_paths
    for spec, values in features.items():
        file[spec] = values
