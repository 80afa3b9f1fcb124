"""
Registration of datasets in COCO's format, which users give as NAME=ANNOTATIONS.json:IMAGES/.

One process checks a dataset (``register_coco_dataset``). Other processes register its result by
``register``, which does not read files.
"""

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from ...errors import InputError
from ..images import UnreadableImageError, read_header
from .annotation_list import NO_USABLE_BOX, UNUSED_CLASSES
from .box_checks import OUTSIDE, REACHES_OUT
from .category_list import class_names
from .classes import select_categories
from .dataset_dicts import convert_dataset_dicts
from .findings import Finding, count_words, finding_error, report_lines
from .image_checks import SIZE_KINDS, Select, check_images, sample_images
from .image_list import NO_SIZE, file_names
from .image_locations import locate_images, with_locations
from .normalization import NO_ANNOTATIONS, normalize
from .reading import make_dataset_dicts, parse_json, paused_garbage_collection

__all__ = [
    "CheckedDataset",
    "CocoDataset",
    "check_coco_dataset",
    "class_indices",
    "dataset_text",
    "normalized_content",
    "parse_dataset",
    "register",
    "register_coco_dataset",
    "registered_datasets",
]

logger = logging.getLogger(__name__)

# The kinds of findings that wrong sizes of images cause.
_BY_SIZE = {OUTSIDE.name, REACHES_OUT.name, NO_USABLE_BOX}


class CocoDataset(NamedTuple):
    """
    The description of a dataset for detectron2's catalogs, which is small and can be pickled.

    Attributes:
        name (str): The name in the catalogs.
        json_file (str): The annotation file.
        image_root (str): The folder of the images.
        categories (dict[int, str]): Name by normalized category id, in the order of class indices.
            Annotations of other categories are left out.
        found_images (dict[str, str]): ``ImageLocations.found``.
        left_out (frozenset[str]): The ``file_name`` of each image that is left out.
    """

    name: str
    json_file: str
    image_root: str
    categories: dict[int, str]
    found_images: Mapping[str, str]
    left_out: frozenset[str]

    def contiguous_ids(self) -> dict[int, int]:
        """Return the class index of each category id."""
        return {category_id: index for index, category_id in enumerate(self.categories)}


class CheckedDataset(NamedTuple):
    """
    A dataset that was read and checked.

    Attributes:
        description (CocoDataset): Its description.
        content (dict): The normalized content of its annotation file.
        findings (list[Finding]): What was found in the files.
    """

    description: CocoDataset
    content: dict[str, Any]
    findings: list[Finding]

    def files(self) -> list[str]:
        """Return the paths of the images, in the file's order."""
        root = self.description.image_root
        return [os.path.join(root, image["file_name"]) for image in self.content["images"]]


class _Loader:
    """
    The function in DatasetCatalog that makes the dataset dicts of a dataset.

    It keeps the content of the annotation file for the first call. Later calls, and those of a
    loader without content, read the file.
    """

    def __init__(self, dataset: CocoDataset, content: dict[str, Any] | None) -> None:
        self.dataset = dataset
        self.content = content

    def __call__(self) -> list[dict[str, Any]]:
        content, self.content = self.content, None
        if content is None:
            content = self.load_content()
        ids = self.dataset.contiguous_ids()
        dicts = make_dataset_dicts(content, self.dataset.image_root, ids)
        number = count_words(len(dicts), "{image|images}")
        logger.info("%s of the dataset %r", number, self.dataset.name)
        return dicts

    def load_content(self) -> dict[str, Any]:
        """Read and normalize the annotation file, which was checked."""
        _, json_file, image_root, _, found_images, left_out = self.dataset
        content = _load_content(json_file, image_root, found_images, left_out)
        return with_locations(content, found_images, left_out)


def registered_datasets() -> list[CocoDataset]:
    """Return all datasets that were registered by ``register``."""
    loaders = [DatasetCatalog[name] for name in DatasetCatalog]
    return [loader.dataset for loader in loaders if isinstance(loader, _Loader)]


def class_indices(dataset_name: str) -> Mapping[int | str, int]:
    """
    Return the class index of each category id of a dataset.

    For a dataset without category ids, this maps each class index to itself.
    """
    metadata = MetadataCatalog.get(dataset_name)
    indices: dict[int | str, int] = {i: i for i in range(len(metadata.thing_classes))}
    return metadata.get("thing_dataset_id_to_contiguous_id") or indices


def normalized_content(dataset_name: str) -> dict[str, Any]:
    """
    Return a registered dataset as valid COCO content; see ``normalize``.

    The dataset may be registered by this package, by detectron2 with a ``json_file``, or as a
    function. If the content of this package's loader is still unused, it is returned.

    Args:
        dataset_name (str): A name in DatasetCatalog.

    Raises:
        InputError: If the annotation file cannot be read or has errors.
    """
    loader = DatasetCatalog[dataset_name]
    if isinstance(loader, _Loader):
        return loader.content or loader.load_content()
    metadata = MetadataCatalog.get(dataset_name)
    json_file = metadata.get("json_file")
    if json_file is None:
        content, findings = normalize(convert_dataset_dicts(dataset_name, loader()))
        _check(findings, f"The dataset {dataset_name!r}")
        return content
    if metadata.get("made_at_first_use"):
        DatasetCatalog.get(dataset_name)
    return _load_content(PathManager.get_local_path(json_file), metadata.get("image_root", ""))


def _load_content(
    json_file: str,
    image_root: str,
    found_images: Mapping[str, str] = MappingProxyType({}),
    left_out: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """Read and normalize an annotation file that was checked, perhaps by another process."""

    def path(file_name: str) -> str:
        """Return the path of an image."""
        return os.path.join(image_root, found_images.get(file_name, file_name))

    content, findings = _normalize(parse_json(json_file), path)
    _check(_without_left_out(findings, left_out), json_file)
    return content


def _without_left_out(findings: Iterable[Finding], left_out: frozenset[str]) -> list[Finding]:
    """Return the findings that do not only say that the size of left out images is unknown."""
    return [x for x in findings if x.kind != NO_SIZE.name or not left_out.issuperset(x.entries)]


def _normalize(parsed: Any, path: Callable[[str], str]) -> tuple[dict[str, Any], list[Finding]]:
    """Normalize an annotation file; ``path`` returns the path of the image with a file_name."""

    def read_size(file_name: str) -> tuple[int, int] | None:
        """Return width and height of an image as training reads it; None if it cannot be read."""
        try:
            return read_header(path(file_name)).upright_size
        except UnreadableImageError:
            return None

    with paused_garbage_collection():
        return normalize(parsed, read_size)


def _check(findings: Iterable[Finding], json_file: str) -> None:
    """Raise the fatal findings as one error."""
    faults = [finding_error(x, json_file) for x in findings if x.is_fatal]
    if faults:
        raise InputError.of(faults)


def dataset_text(
    name: str, json_file: str | os.PathLike[str], image_root: str | os.PathLike[str]
) -> str:
    """Return ``NAME=ANNOTATIONS.json:IMAGES/`` with absolute paths."""
    return f"{name}={Path(json_file).absolute()}:{Path(image_root).absolute()}"


def parse_dataset(text: str) -> tuple[str, Path, Path]:
    """
    Split ``NAME=ANNOTATIONS.json:IMAGES/`` into its three parts.

    The text is split at the first ``=``, and after the first ``.json`` that is followed by a colon,
    so each part may have colons.

    Args:
        text (str): The text.

    Returns:
        tuple[str, Path, Path]: Name, annotation file and folder of the images.

    Raises:
        InputError: If the text does not have this form.
    """
    name, _, paths = text.partition("=")
    stem, separator, image_root = paths.partition(".json:")
    if not (name and stem and separator and image_root):
        raise InputError(
            f"The dataset {text!r} must be given as NAME=ANNOTATIONS.json:IMAGES/, for example "
            "my_train=data/train.json:data/images/ (the annotation file's name must end in .json)."
        )
    json_file = f"{stem}.json"
    return name, Path(os.path.expanduser(json_file)), Path(os.path.expanduser(image_root))


def register_coco_dataset(
    name: str,
    json_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    *,
    is_training_set: bool = True,
    model_classes: Sequence[str] = (),
    drop_classes: Sequence[str] = (),
    skip_unreadable_images: bool = False,
) -> CheckedDataset:
    """
    Check a dataset in COCO's format and register it in detectron2's catalogs.

    All checks are made that do not need to decode the images. What makes training impossible is an
    error; other findings are logged. The same name may be registered again for the same files,
    which are then read again. The catalog keeps the content of the annotation file for its first
    use (see ``register``).

    Args:
        name (str): The name for DATASETS.TRAIN and DATASETS.TEST.
        json_file (str): The annotations. Boxes are [x, y, width, height] in pixels.
        image_root (str): The folder that the ``file_name`` of images is relative to.
        is_training_set (bool): Whether findings are logged that matter only for training.
        model_classes (Sequence[str]): See ``classes.select_categories``.
        drop_classes (Sequence[str]): See ``classes.select_categories``.
        skip_unreadable_images (bool): Leave out images that are missing or cannot be read.

    Raises:
        InputError: If a file is missing or has errors, or if the name is already used for other
            files.
    """
    checked = check_coco_dataset(
        name, json_file, image_root, skip_unreadable_images=skip_unreadable_images
    )
    # ``check_datasets`` refuses sets without boxes.
    others = {NO_USABLE_BOX, NO_ANNOTATIONS if is_training_set else UNUSED_CLASSES}
    findings = [
        x
        for x in checked.findings
        if x.kind not in others
        and not (x.kind == UNUSED_CLASSES and set(x.entries) <= set(drop_classes))
    ]
    for line in report_lines(findings, checked.description.json_file):
        logger.warning(line)
    _check(checked.findings, checked.description.json_file)
    description = checked.description
    categories = select_categories(description.categories, model_classes, drop_classes)
    checked = checked._replace(description=description._replace(categories=categories))
    register(checked.description, checked.content)
    return checked


def check_coco_dataset(
    name: str,
    json_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    *,
    skip_unreadable_images: bool = False,
    select: Select = sample_images,
) -> CheckedDataset:
    """
    Read and check a dataset as ``register_coco_dataset`` does, without registering it.

    Args:
        name (str): See ``register_coco_dataset``.
        json_file (str): See ``register_coco_dataset``.
        image_root (str): See ``register_coco_dataset``.
        skip_unreadable_images (bool): See ``register_coco_dataset``.
        select (Callable): Returns the images whose headers are read.

    Returns:
        CheckedDataset: The dataset. Its content can be used only if no finding is fatal.

    Raises:
        InputError: If a file or folder is missing or cannot be read.
    """
    json_file, image_root = str(Path(json_file)), str(Path(image_root))
    if not os.path.isdir(image_root):
        raise InputError(
            f"The images' folder {os.path.abspath(image_root)} of the dataset {name!r} "
            f"{'is not a folder' if os.path.exists(image_root) else 'does not exist'}.",
            file=image_root,
        )
    parsed = parse_json(json_file)
    locations = locate_images(file_names(parsed), image_root)
    content, findings = _normalize(parsed, locations.path)
    images = check_images(content, locations, skip_unreadable=skip_unreadable_images, select=select)
    categories = class_names(content["categories"])
    description = CocoDataset(
        name, json_file, image_root, categories, locations.found, images.left_out
    )
    findings = _without_left_out(findings, images.left_out)
    if any(x.kind in SIZE_KINDS for x in images.findings):
        findings = [x for x in findings if x.kind not in _BY_SIZE]  # they are consequences
    return CheckedDataset(description, images.content, [*findings, *images.findings])


def register(dataset: CocoDataset, content: dict[str, Any] | None = None) -> None:
    """
    Register a checked dataset in detectron2's catalogs.

    The check may have been made by another process. No file is read: the dataset is loaded when it
    is first used. If the same dataset is registered again, the content that the catalog keeps for
    it is replaced, and its classes may be others.

    Args:
        dataset (CocoDataset): The description from ``register_coco_dataset``.
        content (dict): The normalized content of the annotation file for the first load. Without
            it, the first load reads the file.

    Raises:
        InputError: If the name is already used for other files.
    """
    name = dataset.name
    metadata = {
        "json_file": dataset.json_file,
        "image_root": dataset.image_root,
        "evaluator_type": "coco",
        "thing_classes": list(dataset.categories.values()),
        "thing_dataset_id_to_contiguous_id": dataset.contiguous_ids(),
    }
    if name in DatasetCatalog:
        known = MetadataCatalog.get(name)
        if any(known.get(key) != metadata[key] for key in ("json_file", "image_root")):
            raise InputError(
                f"The dataset name {name!r} is taken: it is registered for other files. Choose "
                "another one.",
                key="name",
                value=name,
            )
        DatasetCatalog.remove(name)
        if any(known.get(key) != value for key, value in metadata.items()):
            MetadataCatalog.remove(name)  # the classes were edited; values cannot be replaced
    DatasetCatalog.register(name, _Loader(dataset, content))
    MetadataCatalog.get(name).set(**metadata)
