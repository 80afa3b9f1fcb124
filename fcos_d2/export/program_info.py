"""What an exported file says about itself: how to prepare images, and what its outputs mean."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputError
from ..image_preparation import ImagePreparation

__all__ = ["FORMATS", "FileFormat", "ProgramInfo", "find_format"]


class FileFormat(NamedTuple):
    """
    A format of exported files.

    Attributes:
        suffix (str): The suffix of the files.
        text (str): What the files are, in words.
    """

    suffix: str
    text: str


# Of two formats with the same suffix, the first one is the default.
FORMATS = {
    "onnx": FileFormat(".onnx", "ONNX, for ONNX Runtime and other runtimes"),
    "pt2": FileFormat(".pt2", "a program of torch.export, for PyTorch on any machine"),
    "aoti": FileFormat(".pt2", "a package of AOTInductor, compiled for one kind of machine"),
}


def find_format(file: Path, chosen: str | None = None) -> str:
    """
    Find the format of a file that will be written.

    Args:
        file (Path): The file.
        chosen (str | None): A key of ``FORMATS``; None selects the format by the suffix.

    Returns:
        str: A key of ``FORMATS``.

    Raises:
        InputError: If the suffix is not that of the format.
    """
    if chosen is not None:
        if file.suffix != FORMATS[chosen].suffix:
            raise InputError(
                f"{file} must end in {FORMATS[chosen].suffix} for the format {chosen}."
            )
        return chosen
    for name, file_format in FORMATS.items():
        if file.suffix == file_format.suffix:
            return name
    suffixes = dict.fromkeys(x.suffix for x in FORMATS.values())
    raise InputError(f"{file} must end in {' or '.join(suffixes)}.")


@dataclass(frozen=True)
class ProgramInfo:
    """
    The metadata of an exported file.

    In an ONNX file, each field is an entry of ``metadata_props`` with its value as JSON. In a .pt2
    file, all fields are in the file ``fcos_d2.json`` inside it.

    Attributes:
        format (str): A key of ``FORMATS``.
        outputs (list[str]): The names of the outputs.
        class_names (list[str]): The name of each class.
        input_format (str): Order of the image channels, INPUT.FORMAT.
        input_dtype (str): Type of the images, "uint8" or "float32". The values are from 0 to 255 in
            both.
        input_shape (list[int | None]): Batch size, channels, height and width; None if any size is
            accepted.
        size_divisibility (int): Images are padded to a multiple of this size, inside the program.
        min_size_test (int): INPUT.MIN_SIZE_TEST: before the program, the shorter side of an image
            is resized to this size; 0 for no resizing.
        max_size_test (int): INPUT.MAX_SIZE_TEST, the maximum size of the longer side.
        white_point_16_bit (int): FCOS_TRAIN.WHITE_POINT_16_BIT, for gray images of 16 bits.
        pixel_mean (list[float]): Mean of the pixels, which the program subtracts.
        score_thresh (float | None): MODEL.FCOS.SCORE_THRESH_TEST. This and the next two are None
            for raw outputs of a model with another post-processor.
        nms_thresh (float | None): MODEL.FCOS.NMS_THRESH_TEST.
        max_detections (int | None): TEST.DETECTIONS_PER_IMAGE, the number of rows of the outputs.
        levels (list[str]): The names of the levels in the outputs of ``--raw``.
        strides (list[int]): Stride of each level in pixels.
        location_offset (float): MODEL.FCOS.LOCATION_OFFSET.
        box_activation (str): MODEL.FCOS.BOX_ACTIVATION.
        device (str): Type of the device that a .pt2 file was made for; ONNX runs on any device.
        version (str): The version of this package.
    """

    format: str
    outputs: list[str]
    class_names: list[str]
    input_format: str
    input_dtype: str
    input_shape: list[int | None]
    size_divisibility: int
    min_size_test: int
    max_size_test: int
    white_point_16_bit: int
    pixel_mean: list[float]
    score_thresh: float | None
    nms_thresh: float | None
    max_detections: int | None
    levels: list[str]
    strides: list[int]
    location_offset: float
    box_activation: str
    device: str
    version: str

    @property
    def batch_size(self) -> int | None:
        """The number of images of a batch; None if any number is accepted."""
        return self.input_shape[0]

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width of the images; None if any size is accepted."""
        _, _, height, width = self.input_shape
        return None if height is None or width is None else (height, width)

    def to_strings(self) -> dict[str, str]:
        """Return the fields with their values as JSON."""
        return {name: json.dumps(value) for name, value in asdict(self).items()}

    @classmethod
    def from_strings(cls, strings: Any, file: str) -> "ProgramInfo":
        """
        Read the fields from the metadata of a file.

        Args:
            strings (dict[str, str]): Values as JSON by name, maybe among others. Anything else
                gives the error, too.
            file (str): The file, for errors.

        Raises:
            InputError: If fields are missing or damaged.
        """
        values: dict[str, Any] = {}
        for field in fields(cls):
            try:
                values[field.name] = json.loads(strings[field.name])
            except (KeyError, TypeError, ValueError):
                raise InputError(
                    f"{file} was not written by `fcos-d2 export`, or by another version of it: its "
                    f"metadata has no valid {field.name!r}.",
                    file=file,
                ) from None
        return cls(**values)

    def build_preparation(self) -> ImagePreparation:
        """Return the conversion of images to inputs of the program."""
        return ImagePreparation(
            self.input_format,
            len(self.pixel_mean),
            self.white_point_16_bit,
            self.min_size_test,
            self.max_size_test,
            self.image_size,
        )

    @property
    def is_raw(self) -> bool:
        """Whether the outputs are those of the head, not detections."""
        return "boxes" not in self.outputs
