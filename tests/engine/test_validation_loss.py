"""The validation loss: its value, and the state of the model after computing it."""

import random

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from tiny import random_input, seeded_model, tiny_cfg
from two_processes import run_in_two_processes

from fcos_d2 import FCOS
from fcos_d2.engine.validation_loss import (
    check_can_validate,
    check_model_can_validate,
    compute_losses_of_dataset,
    compute_validation_losses,
    known_losses,
)
from fcos_d2.errors import InputError
from fcos_d2.modeling import FCOSLosses

# All images have the same size, a multiple of every stride, so that a batch needs no padding.
IMAGES = [random_input(n, 128, 128, seed=i) for i, n in enumerate((3, 0, 6, 1))]


def trained_model(opts=()):
    """Build a model whose norms have the statistics of two batches."""
    model = seeded_model(*opts)
    for _ in range(2):
        model([random_input(4, seed=9)])
    return model


def losses_of_one_batch(model):
    """Compute the training loss of all images at once, with running statistics."""
    model.eval()
    model.training = True  # only the model itself, not its layers
    losses = {name: value.item() for name, value in model(IMAGES).items()}
    return {**losses, "total_loss": sum(losses.values())}


@pytest.mark.parametrize(
    "opts",
    [
        (),
        ({"MODEL.FCOS.BOX_QUALITY": "iou", "MODEL.FCOS.LOSS_WEIGHT_LOC": 2.0},),
        ({"MODEL.FCOS.BOX_QUALITY": "none", "MODEL.FCOS.LOSS_NORMALIZER": "all"},),
    ],
)
def test_the_validation_loss_is_the_training_loss_of_all_images_at_once(opts):
    model = trained_model(opts)
    losses = compute_losses_of_dataset(model, [[x] for x in IMAGES])
    assert losses == pytest.approx(losses_of_one_batch(model), rel=1e-5)


def test_a_moving_normalizer_is_not_used():
    model = trained_model(("MODEL.FCOS.LOSS_NORMALIZER", "moving_fg"))
    expected = compute_losses_of_dataset(trained_model(), [[x] for x in IMAGES])
    assert compute_losses_of_dataset(model, [[x] for x in IMAGES]) == expected


class DrawingLoader:
    """A loader without workers, whose augmentation draws random numbers."""

    def __iter__(self):
        for x in IMAGES:
            random.random()
            np.random.rand()  # noqa: NPY002
            torch.rand(1)
            yield [x]


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002


def test_the_model_its_modes_and_random_generators_are_left_unchanged():
    model = trained_model(("MODEL.FCOS.LOSS_NORMALIZER", "moving_fg"))
    model.backbone.bottom_up.stem.eval()  # as in a frozen stem
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


def test_an_error_leaves_the_mode_unchanged():
    model = trained_model()
    with pytest.raises(KeyError):
        compute_losses_of_dataset(model, [[{"instances": IMAGES[0]["instances"]}]])
    assert all(module.training for module in model.modules())


SMALL = {
    "MODEL.FCOS.NUM_CLASSES": 6,
    "INPUT.MIN_SIZE_TEST": 64,
    "DATALOADER.NUM_WORKERS": 0,
}


def test_the_images_are_resized_as_in_an_evaluation_and_have_annotations(few_shapes, monkeypatch):
    inputs = []
    original = FCOS.compute_loss_terms

    def compute_loss_terms(self, batched_inputs):
        inputs.extend(batched_inputs)
        return original(self, batched_inputs)

    monkeypatch.setattr(FCOS, "compute_loss_terms", compute_loss_terms)
    training = {"INPUT.MIN_SIZE_TRAIN": (96,), "INPUT.CROP.ENABLED": True}  # have no effect
    cfg = tiny_cfg(SMALL, training, "DATASETS.TEST", ("shapes_val",))
    losses = compute_validation_losses(cfg, build_model(cfg))
    assert losses["total_loss"] > 0
    assert [min(x["image"].shape[1:]) for x in inputs] == [64] * 8
    assert sum(len(x["instances"]) for x in inputs) > 8


def test_losses_of_several_datasets_have_the_names_of_the_datasets(few_shapes):
    cfg = tiny_cfg(SMALL, "DATASETS.TEST", ("shapes_val", "shapes_train"))
    losses = compute_validation_losses(cfg, build_model(cfg))
    assert list(losses) == ["shapes_val", "shapes_train"]
    assert losses["shapes_val"]["total_loss"] != losses["shapes_train"]["total_loss"]


@pytest.mark.parametrize(
    ("key", "value"), [("DATASETS.TEST", ()), ("MODEL.META_ARCHITECTURE", "RetinaNet")]
)
def test_a_config_for_which_no_validation_loss_can_be_computed_is_an_error(key, value):
    with pytest.raises(InputError, match=key) as caught:
        check_can_validate(tiny_cfg("DATASETS.TEST", ("shapes_val",), key, value))
    assert caught.value.key == "FCOS_TRAIN.VALIDATION_LOSS"


class Subclass(FCOS):
    """A model with the losses of FCOS."""


class OtherLosses(FCOS):
    """A model with other training losses."""

    def forward_training(self, *args, **kwargs):
        return {}


class OtherForward(FCOS):
    """A model that changes the losses around those of FCOS."""

    def forward(self, batched_inputs):
        return {}


class OtherTerms(OtherLosses, OtherForward):
    """A model with other training losses and validation losses."""

    def compute_loss_terms(self, batched_inputs):
        raise NotImplementedError


@pytest.mark.parametrize("model_class", [Subclass, OtherTerms])
def test_a_subclass_of_fcos_can_be_validated(model_class):
    check_model_can_validate(model_class, None, "key")


@pytest.mark.parametrize("model_class", [OtherLosses, OtherForward, torch.nn.Linear, build_model])
def test_a_model_without_validation_losses_is_an_error(model_class):
    with pytest.raises(InputError, match=model_class.__name__) as caught:
        check_model_can_validate(model_class, None, "key")
    assert caught.value.key == "key"


def losses_of_one_share(rank, _):
    """Return the losses in one of two processes, which have three images and one image."""
    share = IMAGES[:3] if rank == 0 else IMAGES[3:]
    return compute_losses_of_dataset(seeded_model(), [[x] for x in share])


def test_two_processes_with_unequal_shares_compute_the_loss_of_one_process(tmp_path):
    expected = compute_losses_of_dataset(seeded_model(), [[x] for x in IMAGES])
    for losses in run_in_two_processes(losses_of_one_share, tmp_path):
        assert losses == pytest.approx(expected, rel=1e-6)


class OwnLosses(FCOSLosses):
    pass


def test_the_names_of_the_losses_are_known_unless_a_part_may_have_others():
    model = seeded_model()
    names = known_losses(model)
    assert names == ["loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"]
    assert names == list(model([random_input(2)]))
    assert known_losses(None) is None
    assert known_losses(torch.nn.Linear(1, 1)) is None
    model.losses.__class__ = OwnLosses
    assert known_losses(model) is None
