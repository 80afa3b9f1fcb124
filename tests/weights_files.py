"""Weights files, for the tests of reading and converting."""

import io
import os

import torch
from peer_fixtures import FOLDER

IMPROVED = FOLDER / "original_fcos_imprv" / "checkpoint.pth"
MMDET = FOLDER / "mmdet_fcos_tricks" / "checkpoint.pth"


class MakesFolder:
    """An object that runs code when it is unpickled: it makes the folder "executed"."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


def saved_bytes(content):
    """Return the bytes that ``torch.save`` writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def load_peer_file(name):
    """Return the content of a checkpoint of another project in tests/data/peers."""
    return torch.load(FOLDER / name / "checkpoint.pth", weights_only=True)


def weights_of(content):
    return content.get("model") or content["state_dict"]


def load_peer_weights(name):
    return weights_of(load_peer_file(name))


def randomize_norms(model):
    """Give all batch norms different statistics and weights, so that swapped norms are noticed."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)
            torch.nn.init.uniform_(module.bias, -0.2, 0.2)
    return model.eval()


def assert_same_weights(weights, expected):
    """Check that both have the same names and exactly the same values."""
    assert weights.keys() == expected.keys()
    assert [name for name, x in expected.items() if not torch.equal(weights[name], x)] == []
