"""What the process that all children are forked from imports, and nothing that starts threads.

OpenBLAS, which does start some, is ready to be forked. TensorFlow starts its own at the first
tensor, which is the child's.
"""

import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
# What is compared bit for bit is computed on the processor.
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
sys.stderr.flush()
_stderr, _nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
# TensorFlow says in several lines that there is no GPU.
os.dup2(_nowhere, 2)

import dask.threaded  # noqa: E402, F401
import hdf5plugin  # noqa: E402, F401
import joblib  # noqa: E402, F401
import keras  # noqa: E402, F401
import sklearn.linear_model  # noqa: E402
import sklearn.neighbors  # noqa: E402, F401
import skops.io  # noqa: E402, F401
import tensorflow  # noqa: E402, F401

import permafrost.pipeline.cli.main  # noqa: E402
import permafrost.pipeline.computing.writer  # noqa: E402, F401

os.dup2(_stderr, 2)
os.close(_stderr)
os.close(_nowhere)
