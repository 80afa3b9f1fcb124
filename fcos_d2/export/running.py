"""How exported files are called, and images of the sizes that they accept."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .program_info import ProgramInfo

__all__ = ["SMALLEST_SIZE", "RunFunction", "pad_to_accepted_size"]

# Runs an exported file: from images (N, C, H, W) to the list of outputs.
RunFunction = Callable[[Tensor], Sequence[Tensor]]

# Height and width of images for files that accept any size. Images are padded to a multiple of 32,
# and torch.export cannot trace all networks for maps of one cell.
SMALLEST_SIZE = 33


def pad_to_accepted_size(image: Tensor, info: ProgramInfo) -> Tensor:
    """
    Pad an image at the right and lower edge with the pixel mean, if a file needs a larger one.

    Args:
        image (Tensor): (C, H, W) uint8, not larger than the fixed size of the file.
        info (ProgramInfo): The metadata of the file.

    Returns:
        Tensor: (C, H', W') uint8, of the fixed size or at least ``SMALLEST_SIZE`` high and wide.
    """
    size = info.image_size or tuple(max(side, SMALLEST_SIZE) for side in image.shape[1:])
    if tuple(image.shape[1:]) == size:
        return image
    mean = torch.tensor(info.pixel_mean).round().clamp(0, 255).to(torch.uint8)  # (C,)
    padded = mean[:, None, None].repeat(1, *size)  # (C, H', W')
    padded[:, : image.shape[1], : image.shape[2]] = image
    return padded
