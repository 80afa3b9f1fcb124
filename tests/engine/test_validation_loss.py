"""The validation loss: the right figure, and no trace in the model."""

import random

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from process_group import one_of_two
from tiny import random_input, tiny_cfg

from fcos_d2 import FCOS
from fcos_d2.engine.validation_loss import (
    check_can_validate,
    compute_losses_of_dataset,
    compute_validation_losses,
)
from fcos_d2.errors import InputError

# Images of one size, which is a multiple of every stride: a batch of them pads none.
IMAGES = [random_input(n, 128, 128, seed=i) for i, n in enumerate((3, 0, 6, 1))]


def build(*opts):
    torch.manual_seed(0)
    model = build_model(tiny_cfg(*opts))
    for _ in range(2):
        model([random_input(4, seed=9)])  # the statistics are not those of the start
    return model


def as_one_batch(model):
    """The training loss by hand: of all images at once, with running statistics."""
    model.eval()
    model.training = True  # of the whole alone, not of its layers
    losses = {name: value.item() for name, value in model(IMAGES).items()}
    return {**losses, "total_loss": sum(losses.values())}


@pytest.mark.parametrize(
    "opts",
    [
        (),
        ("MODEL.FCOS.BOX_QUALITY", "iou", "MODEL.FCOS.LOSS_WEIGHT_LOC", 2.0),
        ("MODEL.FCOS.BOX_QUALITY", "none", "MODEL.FCOS.LOSS_NORMALIZER", "all"),
    ],
)
def test_it_is_the_training_loss_of_all_images_at_once(opts):
    model = build(*opts)
    losses = compute_losses_of_dataset(model, [[x] for x in IMAGES])
    assert losses == pytest.approx(as_one_batch(model), rel=1e-5)


def test_a_moving_normalizer_is_not_used():
    model = build("MODEL.FCOS.LOSS_NORMALIZER", "moving_fg")
    expected = compute_losses_of_dataset(build(), [[x] for x in IMAGES])
    assert compute_losses_of_dataset(model, [[x] for x in IMAGES]) == expected


class DrawingLoader:
    """As a loader without workers: augmentation draws random numbers."""

    def __iter__(self):
        for x in IMAGES:
            random.random()
            np.random.rand()  # noqa: NPY002
            torch.rand(1)
            yield [x]


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002


def test_model_modes_and_random_generators_are_left_as_they_were():
    model = build("MODEL.FCOS.LOSS_NORMALIZER", "moving_fg")
    model.backbone.bottom_up.stem.eval()  # such as someone may have frozen
    model.head.cls_logits.weight.grad = torch.ones_like(model.head.cls_logits.weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    observed = model.losses.observed
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    expected = draw()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    compute_losses_of_dataset(model, DrawingLoader())
    assert draw() == expected
    assert [module.training for module in model.modules()] == modes
    assert True in modes
    assert False in modes
    assert model.losses.observed is observed
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    grads = [name for name, p in model.named_parameters() if p.grad is not None]
    assert grads == ["head.cls_logits.weight"]


def test_an_error_leaves_the_mode_too():
    model = build()
    with pytest.raises(KeyError):
        compute_losses_of_dataset(model, [[{"instances": IMAGES[0]["instances"]}]])
    assert all(module.training for module in model.modules())


def test_images_are_those_of_an_evaluation_with_annotations(few_shapes, monkeypatch):
    seen = []
    original = FCOS.compute_loss_terms

    def compute_loss_terms(self, batched_inputs):
        seen.extend(batched_inputs)
        return original(self, batched_inputs)

    monkeypatch.setattr(FCOS, "compute_loss_terms", compute_loss_terms)
    cfg = tiny_cfg(
        "DATASETS.TEST",
        ("shapes_val",),
        "MODEL.FCOS.NUM_CLASSES",
        6,
        "INPUT.MIN_SIZE_TEST",
        64,
        "INPUT.MIN_SIZE_TRAIN",
        (96,),
        "DATALOADER.NUM_WORKERS",
        0,
        "INPUT.CROP.ENABLED",
        True,
    )
    losses = compute_validation_losses(cfg, build_model(cfg))
    assert losses["total_loss"] > 0
    assert [min(x["image"].shape[1:]) for x in seen] == [64] * 8
    assert sum(len(x["instances"]) for x in seen) > 8


def test_several_datasets_have_their_losses_by_name(few_shapes):
    cfg = tiny_cfg(
        "DATASETS.TEST",
        ("shapes_val", "shapes_train"),
        "MODEL.FCOS.NUM_CLASSES",
        6,
        "INPUT.MIN_SIZE_TEST",
        64,
        "DATALOADER.NUM_WORKERS",
        0,
    )
    losses = compute_validation_losses(cfg, build_model(cfg))
    assert list(losses) == ["shapes_val", "shapes_train"]
    assert losses["shapes_val"]["total_loss"] != losses["shapes_train"]["total_loss"]


@pytest.mark.parametrize(
    ("key", "value"), [("DATASETS.TEST", ()), ("MODEL.META_ARCHITECTURE", "RetinaNet")]
)
def test_a_config_without_validation_losses_is_an_error(key, value):
    with pytest.raises(InputError, match=key) as caught:
        check_can_validate(tiny_cfg("DATASETS.TEST", ("shapes_val",), key, value))
    assert caught.value.key == "FCOS_TRAIN.VALIDATION_LOSS"


def work(rank, folder):
    """One of two processes: the first has three images, the second one."""
    with one_of_two(rank, folder):
        share = IMAGES[:3] if rank == 0 else IMAGES[3:]
        torch.manual_seed(0)
        losses = compute_losses_of_dataset(build_model(tiny_cfg()), [[x] for x in share])
        torch.save(losses, folder / f"{rank}.pth")


def test_two_processes_with_unequal_shares_compute_the_figure_of_one(tmp_path):
    torch.multiprocessing.spawn(work, (tmp_path,), nprocs=2)
    torch.manual_seed(0)
    expected = compute_losses_of_dataset(build_model(tiny_cfg()), [[x] for x in IMAGES])
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pth") == pytest.approx(expected, rel=1e-6)
