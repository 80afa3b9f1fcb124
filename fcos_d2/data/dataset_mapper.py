"""detectron2's dataset mapper, which tells of each image that cannot be used which one it is."""

from typing import Any

from detectron2.data import DatasetMapper

from ..errors import InputError

__all__ = ["FCOSDatasetMapper"]


class FCOSDatasetMapper(DatasetMapper):
    """In place of DatasetMapper, whose errors do not always have the file's name."""

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """
        See DatasetMapper.

        Raises:
            InputError: an image that is missing, damaged, of another size than its annotations
                say, or with annotations that are none.
        """
        try:
            return super().__call__(dataset_dict)
        # A damaged file can make the readers raise anything.
        except Exception as error:
            raise InputError(
                f"The image {dataset_dict.get('file_name')} (id {dataset_dict.get('image_id')}) "
                f"cannot be used: {type(error).__name__}: {error} Mend or replace the file, "
                "or take it out of the annotations."
            ) from error
