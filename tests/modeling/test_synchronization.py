"""The host does not wait for a GPU in training, nor in inference before the selection."""

import pytest
import torch
from detectron2.structures import Boxes, ImageList
from measuring import Work, count_host_waits
from tiny import MAP_SIZES, predictions_of, random_input, random_maps, seeded_model
from torch import nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fcos_d2.modeling import fcos
from fcos_d2.modeling.annotations import copy_annotations
from fcos_d2.modeling.candidates import threshold_candidates
from fcos_d2.modeling.postprocessing import score_candidates

HAS_COMPILE = tuple(int(x) for x in torch.__version__.split(".")[:2]) >= (2, 6)
needs_compile = pytest.mark.skipif(not HAS_COMPILE, reason="needs torch 2.6")


def losses_of(model, features, instances, ignore_boxes):
    predictions = model.dense_head.predict(features)
    image_sizes = [(96, 128)] * len(instances)
    return model.dense_head.compute_losses(predictions, instances, image_sizes, ignore_boxes)


def losses_and_gradients(function, model, features, inputs):
    """Return losses and gradients of one call, and the statistics that are kept for logging."""
    model.zero_grad()
    features = [x.clone().requires_grad_() for x in features]
    instances = [x["instances"] for x in inputs]
    _, ignore_boxes = copy_annotations(inputs, model.device)
    losses = function(model, features, instances, ignore_boxes)
    sum(losses.values()).backward()
    return losses, [x.grad for x in (*features, *model.head.parameters())], model.losses.observed


@needs_compile
@pytest.mark.parametrize(
    ("quality", "normalizer", "num_boxes", "ignores", "backend"),
    [
        ("centerness", "fg", 3, False, "aot_eager"),  # traces the backward pass too
        ("iou", "moving_fg", 3, True, "eager"),
        ("none", "all", 0, False, "eager"),
    ],
)
def test_head_targets_and_losses_are_one_graph(quality, normalizer, num_boxes, ignores, backend):
    opts = {"MODEL.FCOS.BOX_QUALITY": quality, "MODEL.FCOS.LOSS_NORMALIZER": normalizer}
    inputs = [random_input(num_boxes), random_input(0)]
    if ignores:
        inputs[1]["gt_ignore_boxes"] = Boxes(torch.tensor([[0.0, 0.0, 50.0, 50.0]]))
    features = [torch.randn(2, 64, h, w) for h, w in MAP_SIZES]
    torch.compiler.reset()
    # Reading a value on the host would end the graph, which fullgraph forbids.
    compiled = torch.compile(losses_of, fullgraph=True, backend=backend)
    (expected, expected_grads, expected_observed), (losses, grads, observed) = (
        losses_and_gradients(function, seeded_model(opts), features, inputs)
        for function in (losses_of, compiled)
    )
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-5, atol=1e-6)
    for a, b in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert torch.equal(observed.is_positive, expected_observed.is_positive)


@needs_compile
def test_whole_box_mode_is_not_a_single_graph():
    # Here the number of pairs depends on values. This is also how the test above would fail.
    model = seeded_model("MODEL.FCOS.CENTER_SAMPLING_RADIUS", 0.0)
    features, inputs = [torch.randn(1, 64, h, w) for h, w in MAP_SIZES], [random_input(3)]
    torch.compiler.reset()
    compiled = torch.compile(losses_of, fullgraph=True, backend="eager")
    with pytest.raises(torch._dynamo.exc.Unsupported):
        losses_and_gradients(compiled, model, features, inputs)


class RecordWaits(TorchDispatchMode):
    """A mode that records the copies between host and GPU for which the host waits."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        is_copy = func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        if is_copy and not kwargs.get("non_blocking", False):
            target = kwargs.get("device") or (args[1] if len(args) > 1 else args[0]).device
            if torch.device(target).type != args[0].device.type:
                self.waits.append(func)
        return func(*args, **kwargs)


# Fake tensors can be on a GPU that does not exist. They have shapes but no values: reading a value
# raises an error.


def fake_maps(channels):
    return [torch.randn(2, channels, h, w, device="cuda") for h, w in MAP_SIZES]


@pytest.mark.parametrize("radius", [1.5, 4.0])
def test_losses_need_no_copies_that_the_host_waits_for(radius):
    model = seeded_model("MODEL.FCOS.CENTER_SAMPLING_RADIUS", radius)
    inputs = [random_input(3), random_input(3)]
    with FakeTensorMode(allow_non_fake_inputs=True):
        for instances in (x["instances"] for x in inputs):
            instances.gt_boxes = Boxes(torch.zeros(3, 4, device="cuda"))
            instances.gt_classes = torch.zeros(3, dtype=torch.int64, device="cuda")
        maps = [fake_maps(channels) for channels in (5, 4, 1)]
        with RecordWaits() as record:
            losses = model.dense_head.compute_losses(
                predictions_of(maps), [x["instances"] for x in inputs], [(96, 128)] * 2
            )
        assert not record.waits
        assert all(value.device.type == "cuda" for value in losses.values())
        with record:  # Such a copy would be recorded.
            maps[0][0].cpu()
        assert record.waits


def put_on_fake_gpu(model):
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, x in tensors.items():
                if x is not None:
                    fake = torch.empty_like(x, device="cuda")
                    if isinstance(x, nn.Parameter):
                        fake = nn.Parameter(fake, requires_grad=x.requires_grad)
                    tensors[name] = fake


def test_the_host_never_waits_in_training_on_a_fake_gpu(monkeypatch):
    # Both functions read values on the host before any work runs on the GPU.
    monkeypatch.setattr(fcos, "check_classes", lambda *_: None)
    monkeypatch.setattr(
        fcos.FCOS,
        "preprocess_image",
        lambda *_: ImageList(torch.zeros(2, 3, 128, 128, device="cuda"), [(96, 128)] * 2),
    )
    model = seeded_model()
    inputs = [random_input(3), random_input(0)]
    inputs[1]["gt_ignore_boxes"] = Boxes(torch.tensor([[0.0, 0.0, 50.0, 50.0]]))
    with FakeTensorMode(allow_non_fake_inputs=True), RecordWaits() as record:
        put_on_fake_gpu(model)
        losses = model(inputs)
    assert all(value.device.type == "cuda" for value in losses.values())
    assert not record.waits  # not even for boxes, classes and ignore boxes


def num_values_read(function):
    return count_host_waits(Work(lambda _: function()))


@pytest.mark.parametrize("quality", ["centerness", "iou", "none"])
@pytest.mark.parametrize("box_loss", ["giou", "diou", "ciou", "iou", "linear_iou"])
def test_gradients_of_the_losses_read_no_value(box_loss, quality):
    model = seeded_model({"MODEL.FCOS.LOC_LOSS_TYPE": box_loss, "MODEL.FCOS.BOX_QUALITY": quality})
    maps = [[x.requires_grad_() for x in random_maps(channels)] for channels in (5, 4, 1)]
    if quality == "none":
        maps[2] = []
    instances = [random_input(3)["instances"], random_input(0)["instances"]]

    def train():
        losses = model.dense_head.compute_losses(predictions_of(maps), instances, [(96, 128)] * 2)
        sum(losses.values()).backward()

    assert num_values_read(train) == 0
    assert all(x.grad is not None for level in maps for x in level)
    assert (
        num_values_read(lambda: maps[0][0].sum().item()) == 1
    )  # Reading a value would be counted.


def test_the_host_does_not_wait_for_images():
    model = seeded_model()
    with FakeTensorMode(allow_non_fake_inputs=True), RecordWaits() as record:
        put_on_fake_gpu(model)
        moved = model._move_to_current_device(random_input(0)["image"])
    assert moved.device.type == "cuda"
    assert not record.waits


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_host_never_waits_from_images_to_losses_and_gradients():
    model = seeded_model("MODEL.DEVICE", "cuda")
    inputs = [random_input(3), random_input(0)]
    sum(model(inputs).values()).backward()  # The first call sets up cuDNN and the allocator.
    model.zero_grad()
    torch.cuda.set_sync_debug_mode("error")
    try:
        sum(model(inputs).values()).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(x.grad is not None for x in model.parameters() if x.requires_grad)


@pytest.mark.parametrize("with_quality", [False, True])
def test_the_host_does_not_wait_in_the_selection_before_nonzero(with_quality):
    raises = pytest.raises(DynamicOutputShapeException, match="nonzero")
    with FakeTensorMode(), RecordWaits() as record, raises:
        threshold_candidates(fake_maps(5), fake_maps(1), 0.05, with_quality, score_candidates)
    assert not record.waits


def test_the_host_does_not_wait_in_inference_before_the_selection(monkeypatch):
    monkeypatch.setattr(
        fcos.FCOS,
        "preprocess_image",
        lambda *_: ImageList(torch.zeros(2, 3, 128, 128, device="cuda"), [(96, 128)] * 2),
    )
    model = seeded_model("MODEL.RESNETS.NORM", "FrozenBN").eval()  # to be folded
    raises = pytest.raises(DynamicOutputShapeException, match="nonzero")
    with FakeTensorMode(allow_non_fake_inputs=True), RecordWaits() as record, torch.no_grad():
        put_on_fake_gpu(model)
        with raises as error:
            model([random_input(0), random_input(0)])
    assert any(entry.name == "threshold_candidates" for entry in error.traceback)
    assert not record.waits


@pytest.mark.parametrize("num_images", [1, 2])
def test_post_processing_reads_few_values(num_images):
    # Values are read three times for the batch: the scores above the threshold, whether one is NaN,
    # and the best candidates. For each image, the empty boxes are read. On a GPU, also the index of
    # the first candidate of each image and the result of NMS are read.
    model = seeded_model().eval()
    maps = [[x[:num_images] for x in random_maps(channels)] for channels in (5, 4, 1)]
    images = ImageList(torch.zeros(num_images, 3, 96, 128), [(96, 128)] * num_images)
    results = []

    def infer():
        with torch.no_grad():
            results.extend(model.forward_inference(images, maps[0], predictions_of(maps)))

    assert num_values_read(infer) == 3 + num_images
    assert all(len(x) > 10 for x in results)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_host_never_waits_from_images_to_the_selection():
    model = seeded_model("MODEL.DEVICE", "cuda").eval()
    inputs = [random_input(0), random_input(0)]
    with torch.no_grad():
        model(inputs)
        torch.cuda.set_sync_debug_mode("error")
        try:
            with pytest.raises(RuntimeError, match="synchronizing") as error:
                model(inputs)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    last = error.traceback[-1]
    assert last.name == "threshold_candidates"
    assert "nonzero" in str(last.statement)
