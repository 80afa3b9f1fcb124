"""Fixtures for datasets in COCO's format."""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from fcos_d2.data.coco import register_coco_dataset


def forget(*names):
    """Remove registered datasets."""
    for name in names:
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


@pytest.fixture
def register_own(own_data):
    """Return a function that writes and registers both datasets of ``own_data``."""

    def register():
        own_data.write()
        return {
            name: register_coco_dataset(name, own_data.file(name), own_data.images)
            for name in own_data.NAMES
        }

    yield register
    forget(*own_data.NAMES)
