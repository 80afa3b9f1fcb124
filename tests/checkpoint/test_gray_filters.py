"""Weights for color images in a model for gray images."""

import pickle
from pathlib import Path

import pytest
import torch
from tiny import seeded_model
from torch import nn
from weights_files import assert_same_weights

from fcos_d2.checkpoint import FCOSCheckpointer
from fcos_d2.checkpoint.gray_filters import sum_color_filters
from fcos_d2.errors import InputError

GRAY = {"MODEL.PIXEL_MEAN": [115.0], "MODEL.PIXEL_STD": [1.0]}
STEM = "backbone.bottom_up.stem.conv1.weight"


def test_the_summed_filters_compute_the_same_on_an_image_of_equal_channels():
    color, gray = nn.Conv2d(3, 4, 5), nn.Conv2d(1, 4, 5)
    weights = {"w": color.weight.detach(), "b": color.bias.detach()}
    assert sum_color_filters(weights, gray) == "w"
    image = torch.rand(1, 1, 8, 8)
    computed = nn.functional.conv2d(image, weights["w"], weights["b"])
    torch.testing.assert_close(computed, color(image.expand(1, 3, 8, 8)))


@pytest.mark.parametrize(
    ("model", "shapes"),
    [
        (nn.Conv2d(3, 4, 5), [(4, 3, 5, 5)]),  # for color images
        (nn.Conv2d(4, 4, 5, groups=4), [(4, 3, 5, 5)]),  # depthwise
        (nn.Conv2d(1, 4, 5), [(4, 1, 5, 5)]),
        (nn.Conv2d(1, 4, 5), [(4, 3, 7, 7)]),
        (nn.Conv2d(1, 4, 5), [(4, 3, 5, 5), (4, 3, 5, 5)]),  # not clear which
        (nn.Conv2d(1, 4, 5), []),
    ],
)
def test_other_weights_are_left_unchanged(model, shapes):
    weights = {f"w{i}": torch.ones(shape) for i, shape in enumerate(shapes)}
    before = dict(weights)
    assert sum_color_filters(weights, model) is None
    assert all(weights[name] is x for name, x in before.items())


@pytest.mark.parametrize("kind", ["detector", "backbone", "arrays", "caffe2"])
def test_a_gray_model_starts_from_weights_for_color_images(folder, kind, package_log):
    color, gray = seeded_model(), seeded_model(GRAY, seed=1)
    state = color.state_dict()
    file = "x.pth"
    if kind == "backbone":
        state = color.backbone.bottom_up.state_dict()
    elif kind != "detector":
        file, state = "x.pkl", {k: x.numpy() for k, x in state.items()}
    if kind == "caffe2":
        state = {"conv1_w": state[STEM]}
    save(state, file)
    FCOSCheckpointer(gray).load(file)
    expected = color.state_dict()[STEM].sum(1, keepdim=True)
    assert torch.equal(gray.state_dict()[STEM], expected)
    assert "summed over the channels" in package_log.text


def save(state, file):
    if file.endswith(".pkl"):
        Path(file).write_bytes(pickle.dumps(state))
    else:
        torch.save({"model": state}, file)


def test_an_evaluation_needs_weights_for_gray_images(folder):
    torch.save({"model": seeded_model().state_dict()}, "x.pth")
    with pytest.raises(InputError, match=STEM):
        FCOSCheckpointer(seeded_model(GRAY), complete=True).load("x.pth")


def test_weights_for_gray_images_are_loaded_as_they_are(folder):
    gray, other = seeded_model(GRAY), seeded_model(GRAY, seed=1)
    torch.save({"model": gray.state_dict()}, "x.pth")
    FCOSCheckpointer(other).load("x.pth")
    assert_same_weights(other.state_dict(), gray.state_dict())
