"""Datasets in COCO's format: reading, checking, registering and describing them."""
