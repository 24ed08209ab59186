"""Preprocessing with figures of one's own: read, written in one way, and applied."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from permafrost.stages.backbones.preprocessing import parse_mode, preprocess
from permafrost.stages.errors import InputError, UnknownNameError

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("mean=123.680,116.5,+103", "mean=123.68,116.5,103,std=1,1,1"),
        (" mean = 1e2, .5, -0 , std = 58.0,5.7e1,57 ", "mean=100,0.5,0,std=58,57,57"),
        ("mean=33.3,std=78", "mean=33.3,std=78"),
        ("mean=0", "mean=0,std=1"),
        ("caffe", "caffe"),
        ("auto", "auto"),
    ],
)
def test_figures_are_written_in_one_way(text, mode):
    assert parse_mode(text) == parse_mode(mode) == mode


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mean=1,2,3,std=1", "has 3 means and 1 deviations; write one of each"),
        ("mean=1,2,3,std=1,0,1", "std 0 must be above 0"),
        ("mean=1,2,3,std=1,1e-60,1", "std 1e-60 must be above 0"),
        ("mean=1,2,x", "'x' is not a number; write it as mean=R,G,B,std=R,G,B"),
        ("mean=1,nan,3", "'nan' is not a number"),
        ("mean=1,2,1e999", "'1e999' is not a number"),
        ("mean=", "cannot read --preprocess 'mean='"),
        ("std=1,2,3", "cannot read --preprocess 'std=1,2,3'; write it as mean=R,G,B"),
        ("mean=1,2,3,std=1,2,3,mean=1", "cannot read"),
    ],
)
def test_what_are_no_figures_is_one_line(text, said):
    with pytest.raises(InputError) as refused:
        parse_mode(text)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_unknown_mode_names_the_nearest():
    with pytest.raises(UnknownNameError, match=r"did you mean 'caffe'.*or write mean=R,G,B"):
        parse_mode("cafe")


@pytest.mark.parametrize(
    ("mode", "pixels", "mean", "std"),
    [
        ("mean=120,110.5,99,std=60,58,57.5", PIXELS, [120, 110.5, 99], [60, 58, 57.5]),
        ("mean=33.3,std=78.5", PIXELS[..., :1], [33.3], [78.5]),
    ],
)
def test_figures_are_subtracted_and_divided_by(mode, pixels, mean, std):
    found = preprocess(tf.constant(pixels), mode=mode, view="hflip").numpy()
    expected = (pixels[:, :, ::-1] - np.array(mean)) / np.array(std)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_figures_of_other_channels_are_refused():
    for mode, pixels in (("mean=1,std=1", PIXELS), ("mean=1,1,1,std=1,1,1", PIXELS[..., :1])):
        with pytest.raises(InputError, match=f"{mode!r} is for . channels, and the images have"):
            preprocess(tf.constant(pixels), mode=mode, view="identity")
