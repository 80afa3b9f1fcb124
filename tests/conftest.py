"""Fixtures that several test files share."""

import pytest
from detectron2.data import DatasetCatalog

from fcos_d2.data import register_shapes


@pytest.fixture(scope="session")
def few_shapes(tmp_path_factory):
    """shapes_train and shapes_val of 24 and 8 images, in a folder of the test run."""
    root = tmp_path_factory.mktemp("datasets")
    register_shapes(root, {"train": 24, "val": 8})
    for name in ("shapes_train", "shapes_val"):
        DatasetCatalog.get(name)  # draws them
    yield root
    register_shapes()
