"""The head: its maps, its towers and its parameters."""

import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from key_lists import adelaidet_keys, shapes_of

from fcos_d2 import FCOSHead
from fcos_d2.errors import InputError

P3_TO_P5 = [ShapeSpec(channels=32, stride=s) for s in (8, 16, 32)]


def features(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 32, 32 // s, 48 // s, generator=generator) for s in (1, 2, 4)]


def test_maps_have_the_documented_shapes():
    logits, ltrb, centerness = FCOSHead(input_shape=P3_TO_P5, num_classes=7)(features())[:3]
    for maps, channels in ((logits, 7), (ltrb, 4), (centerness, 1)):
        assert [x.shape for x in maps] == [(2, channels, 32 // s, 48 // s) for s in (1, 2, 4)]


def test_state_dict_has_the_names_of_the_original_fcos():
    keys = set(FCOSHead(input_shape=P3_TO_P5, num_classes=7).state_dict())
    towers = {
        f"{tower}.{index}.{kind}"
        for tower in ("cls_tower", "bbox_tower")
        for index in (0, 1, 3, 4, 6, 7, 9, 10)  # conv, GN, ReLU four times
        for kind in ("weight", "bias")
    }
    predictors = {
        f"{name}.{kind}"
        for name in ("cls_logits", "bbox_pred", "centerness")
        for kind in ("weight", "bias")
    }
    assert keys == towers | predictors | {f"scales.{level}.scale" for level in range(3)}


def test_every_location_starts_with_the_prior_probability_and_box():
    head = FCOSHead(input_shape=P3_TO_P5, num_classes=7, prior_prob=0.02, prior_ltrb=3.0)
    assert head.cls_logits.bias.sigmoid().tolist() == pytest.approx([0.02] * 7)
    assert head.bbox_pred.bias.tolist() == [3.0] * 4
    assert head.centerness.bias.tolist() == [0.0]
    assert head.cls_tower[0].weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert math.isclose(head.scales[0].scale.item(), 1.0)


@pytest.mark.parametrize("branch", ["box", "cls"])
def test_centerness_comes_from_the_tower_that_the_argument_names(branch):
    head = FCOSHead(input_shape=P3_TO_P5, num_classes=7, centerness_on=branch)
    head(features())[2][0].sum().backward()
    used, unused = head.bbox_tower, head.cls_tower
    if branch == "cls":
        used, unused = unused, used
    assert used[0].weight.grad is not None
    assert unused[0].weight.grad is None


def test_a_scale_multiplies_only_the_box_maps_of_its_level():
    head = FCOSHead(input_shape=P3_TO_P5, num_classes=7)
    before = head(features())[:3]
    head.scales[1].scale.data.fill_(3.0)
    after = head(features())[:3]
    for level, factor in enumerate((1, 3, 1)):
        torch.testing.assert_close(after[1][level], before[1][level] * factor)
        torch.testing.assert_close(after[0][level], before[0][level])


def test_group_norm_accepts_maps_of_one_cell():
    # With 32 channels in 32 groups, torch's GroupNorm raises an error, even in inference.
    head = FCOSHead(input_shape=P3_TO_P5[:1], num_classes=7).eval()
    (logits,), _, _ = head([torch.randn(1, 32, 1, 1)])[:3]
    assert logits.isfinite().all()
    x = torch.randn(2, 32, 5, 5)
    torch.testing.assert_close(head.cls_tower[1](x), torch.nn.GroupNorm(32, 32)(x))


FULL_SIZE = {"input_shape": [ShapeSpec(channels=256)] * 5, "num_classes": 80}


def test_names_and_shapes_are_those_of_released_checkpoints():
    released = adelaidet_keys("head FCOS-Detection/R_50_1x")
    expected = {k.replace("ctrness", "centerness"): v for k, v in released.items()}
    assert shapes_of(FCOSHead(**FULL_SIZE)) == expected


@pytest.mark.parametrize(
    ("options", "section", "part"),
    [
        (
            {"num_share_convs": 4, "num_cls_convs": 0, "num_box_convs": 0, "norm": "SyncBN"},
            "first layers",
            ("share_tower.0.", "share_tower.1."),
        ),
        (
            {"use_deformable": True},
            "last layers",
            tuple(f"{tower}_tower.{i}." for tower in ("cls", "bbox") for i in (9, 10)),
        ),
    ],
)
def test_names_of_optional_layers_are_those_of_released_checkpoints(options, section, part):
    head = FCOSHead(**{**FULL_SIZE, "input_shape": FULL_SIZE["input_shape"][:3]}, **options)
    shapes = {k: v for k, v in shapes_of(head).items() if k.startswith(part)}
    assert shapes == adelaidet_keys(section)


def test_the_shared_tower_learns_from_both_branches():
    head = FCOSHead(input_shape=P3_TO_P5, num_classes=7, num_share_convs=2)
    assert len(head.share_tower) == 6  # conv, GN, ReLU
    gradients = []
    for branch in range(2):  # class, box
        head.zero_grad()
        head(features())[branch][0].sum().backward()
        gradients.append([p.grad.clone() for p in head.share_tower.parameters()])
        unused_tower = (head.bbox_tower, head.cls_tower)[branch]
        assert all(p.grad is None for p in unused_tower.parameters())
    for of_class, of_box in zip(*gradients, strict=True):
        assert of_class.any()
        assert of_box.any()


def test_the_shared_tower_is_the_input_of_both_branches():
    head = FCOSHead(
        input_shape=P3_TO_P5, num_classes=7, num_share_convs=1, num_cls_convs=0, num_box_convs=0
    )
    (fine, *_) = features()
    logits, ltrb, _ = head([fine], levels=[0])[:3]
    shared = torch.relu(head.share_tower[1](head.share_tower[0](fine)))
    torch.testing.assert_close(logits, [head.cls_logits(shared)])
    torch.testing.assert_close(ltrb, [head.bbox_pred(shared)])


@pytest.mark.parametrize("norm", ["GN", "BN", "SyncBN", "naiveSyncBN", ""])
def test_a_subset_of_levels_in_another_order_has_the_same_maps(norm):
    head = FCOSHead(input_shape=P3_TO_P5, num_classes=7, norm=norm, num_cls_convs=2)
    for i, (name, buffer) in enumerate(head.named_buffers()):
        if name.endswith(("mean", "var")):
            buffer.add_(0.1 * i)
    for i, scale in enumerate(head.scales):
        scale.scale.data.fill_(1.0 + i)
    head.eval()
    maps = features()
    expected = head(maps)[:3]
    for levels in ([2, 0], [1], [1, 1, 2], []):
        subset = head([maps[i] for i in levels], levels)[:3]
        for of_some, of_all in zip(subset, expected, strict=True):
            torch.testing.assert_close(of_some, [of_all[i] for i in levels])


def test_training_on_one_level_does_not_change_the_statistics_of_other_levels():
    head = FCOSHead(input_shape=P3_TO_P5, num_classes=7, norm="BN", num_share_convs=1)
    head(features()[1:2], levels=[1])
    counts = {k: b.item() for k, b in head.named_buffers() if k.endswith("num_batches_tracked")}
    assert len(counts) == (1 + 4 + 4) * 3
    assert all(count == (key.split(".")[2] == "1") for key, count in counts.items())


def test_towers_can_have_another_width_than_the_levels():
    narrow = FCOSHead(input_shape=P3_TO_P5, num_classes=7, head_channels=64, num_cls_convs=2)
    shapes = [x.shape[:2] for x in narrow.cls_tower.parameters() if x.dim() == 4]
    assert shapes == [(64, 32), (64, 64)]
    assert narrow.cls_logits.in_channels == narrow.centerness.in_channels == 64
    num_channels = [[x.shape[1] for x in kind] for kind in narrow(features())[:3]]
    assert num_channels == [[7] * 3, [4] * 3, [1] * 3]
    convs = {"num_share_convs": 1, "num_cls_convs": 0, "use_deformable": False}
    shared = FCOSHead(input_shape=P3_TO_P5, num_classes=7, head_channels=64, **convs)
    assert shared.share_tower[0].weight.shape[:2] == (64, 32)
    assert shared.bbox_tower[0].weight.shape[:2] == (64, 64)
    assert shared(features())[0][0].shape[1] == 7


def test_the_last_convolution_of_both_towers_can_be_deformable():
    head = FCOSHead(input_shape=P3_TO_P5, num_classes=7, num_share_convs=1, use_deformable=True)
    names = ["Conv2d", "Conv2d", "Conv2d", "DeformableConv"]
    for tower in (head.cls_tower, head.bbox_tower):
        assert [type(layer).__name__ for layer in tower[::3]] == names
        assert tower[9].conv.weight.std().item() == pytest.approx(0.01, rel=0.1)
        assert not any(p.any() for p in tower[9].offset.parameters())
    assert type(head.share_tower[0]) is torch.nn.Conv2d
    sum(x.square().sum() for kind in head(features())[:3] for x in kind).backward()
    assert head.cls_tower[9].offset.weight.grad.any()


def test_a_head_can_have_no_scales_and_no_norms():
    head = FCOSHead(input_shape=P3_TO_P5, num_classes=7, norm="", use_scale=False)
    assert not [key for key in head.state_dict() if "scale" in key]
    assert [type(layer).__name__ for layer in head.cls_tower] == ["Conv2d", "ReLU"] * 4


TOWERS = {"num_cls_convs": 4, "num_box_convs": 0}


@pytest.mark.parametrize(
    ("kwargs", "key", "word"),
    [
        ({"norm": "BN2"}, "norm", "'BN2'"),
        ({"centerness_on": "left"}, "centerness_on", "'left'"),
        ({"prior_prob": 1.0}, "prior_prob", "between 0 and 1"),
        ({"num_classes": 0}, "num_classes", "at least 1"),
        ({"head_channels": -1}, "head_channels", "integer"),
        ({"num_share_convs": -1}, "num_share_convs", "integer"),
        ({"use_deformable": 1}, "use_deformable", "True or False"),
        ({"input_shape": [*P3_TO_P5, ShapeSpec(channels=64)]}, "input_shape", "[32, 32, 32, 64]"),
        ({"input_shape": [ShapeSpec(channels=48)]}, "MODEL.FCOS.NORM", "48 channels"),
        ({"head_channels": 40}, "MODEL.FCOS.NORM", "40 channels"),
        (
            {"head_channels": 64, **TOWERS},
            "MODEL.FCOS.HEAD_CHANNELS",
            "NUM_CLS_CONVS = 4, NUM_BOX_CONVS = 0",
        ),
        (
            {"use_deformable": True, "num_cls_convs": 0},
            "MODEL.FCOS.USE_DEFORMABLE",
            "NUM_CLS_CONVS = 0",
        ),
    ],
)
def test_wrong_settings_are_errors_with_their_key(kwargs, key, word):
    with pytest.raises(InputError) as caught:
        FCOSHead(**{"input_shape": P3_TO_P5, "num_classes": 7, **kwargs})
    assert caught.value.key == key
    assert word in caught.value.text


def kept_bytes(head, features):
    """Return the number of bytes of maps that autograd keeps for the gradient, and the outputs."""
    weights = {p.untyped_storage().data_ptr() for p in head.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        outputs = head(features)[:3]
    return sum(kept.values()), outputs


@pytest.mark.parametrize(
    "options", [{}, {"num_share_convs": 1, "norm": "", "use_deformable": True}]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_checkpointed_towers_have_equal_gradients_and_keep_fewer_maps(options, dtype):
    results = []
    for checkpoint_towers in (False, True):
        torch.manual_seed(0)
        shapes = [ShapeSpec(channels=32)] * 2
        head = FCOSHead(
            input_shape=shapes, num_classes=3, checkpoint_towers=checkpoint_towers, **options
        )
        torch.manual_seed(1)
        features = [torch.randn(2, 32, size, size, requires_grad=True) for size in (24, 12)]
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            num_bytes, outputs = kept_bytes(head, features)
        maps = [x for level in outputs for x in level]
        sum(x.float().square().sum() for x in maps).backward()
        results.append((num_bytes, [*maps, *(x.grad for x in (*features, *head.parameters()))]))
    (num_bytes, expected), (num_bytes_checkpointed, tensors) = results
    assert num_bytes_checkpointed < 0.4 * num_bytes
    for a, b in zip(tensors, expected, strict=True):
        assert torch.equal(a, b)


def test_towers_with_batch_norms_cannot_be_checkpointed():
    with pytest.raises(InputError, match="CHECKPOINT_TOWERS") as caught:
        FCOSHead(input_shape=P3_TO_P5, num_classes=3, norm="BN", checkpoint_towers=True)
    assert caught.value.key == "MODEL.FCOS.NORM"
