"""Fixtures that several test files share."""

import pytest
from detectron2.data import DatasetCatalog

from fcos_d2.data import register_shapes

_FEW = {"train": 24, "val": 8}


@pytest.fixture(scope="session")
def _shapes_root(tmp_path_factory):
    """A folder of the test run, where a few shapes are drawn once."""
    root = tmp_path_factory.mktemp("datasets")
    register_shapes(root, _FEW)
    for name in ("shapes_train", "shapes_val"):
        DatasetCatalog.get(name)  # draws them
    register_shapes()
    return root


@pytest.fixture(scope="module")
def few_shapes(_shapes_root):
    """shapes_train and shapes_val of 24 and 8 images, for as long as a test file runs."""
    register_shapes(_shapes_root, _FEW)
    yield _shapes_root
    register_shapes()
