"""NMS as a mask over all candidates, in PyTorch and as an operator of ONNX."""

import pytest
import torch
from torch import nn

from fcos_d2.export.onnx_file import find_kept_onnx, open_session, save_onnx
from fcos_d2.export.program_info import ProgramInfo
from fcos_d2.export.suppression import find_kept
from fcos_d2.modeling.nms import class_wise_nms

NUM_CANDIDATES, NUM_BEST = 3000, 100


def random_candidates(num_classes, num_images=2, seed=0):
    """Draw clusters of overlapping boxes; a tenth of them is padding."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_images, NUM_CANDIDATES)
    centers = torch.rand(*shape, 2, generator=generator).mul(12).floor() * 100 + 50
    centers += torch.randn(*shape, 2, generator=generator) * 4
    sizes = 30 + 10 * torch.rand(*shape, 2, generator=generator)
    boxes = torch.cat([centers - sizes, centers + sizes], dim=2).clamp(min=0)
    scores = torch.rand(shape, generator=generator)
    scores[torch.rand(shape, generator=generator) < 0.1] = -1
    return boxes, scores, torch.randint(num_classes, shape, generator=generator)


def best_kept(is_kept, scores):
    """Return the indices of the kept boxes with the highest scores of each image."""
    return [
        sorted(x.nonzero().flatten().tolist(), key=lambda i, s=s: -s[i])[:NUM_BEST]
        for x, s in zip(is_kept, scores, strict=True)
    ]


def exact_kept(boxes, scores, classes, nms_thresh):
    """Return the result of ``best_kept`` for exact NMS of one image after the other."""
    results = []
    for image_boxes, image_scores, image_classes in zip(boxes, scores, classes, strict=True):
        valid = (image_scores > -1).nonzero().flatten()
        kept = class_wise_nms(
            image_boxes[valid], image_scores[valid], image_classes[valid], nms_thresh
        )
        results.append(valid[kept][:NUM_BEST].tolist())
    return results


@pytest.mark.parametrize("num_classes", [1, 80, 1203])
def test_the_mask_has_the_boxes_of_exact_suppression(num_classes):
    boxes, scores, classes = random_candidates(num_classes)
    is_kept = find_kept(boxes, scores, classes, num_classes, 0.5)
    assert best_kept(is_kept, scores) == exact_kept(boxes, scores, classes, 0.5)


def test_padding_is_never_kept():
    boxes, scores, classes = random_candidates(3)
    scores[0] = -1
    is_kept = find_kept(boxes, scores, classes, 3, 0.5)
    assert not is_kept[0].any()
    assert is_kept[1].any()
    assert not (is_kept & (scores == -1)).any()


@pytest.mark.parametrize("num_valid", [0, 1])
def test_few_candidates_are_suppressed_in_a_program_too(num_valid):
    """Torchvision declares that NMS keeps at least two boxes."""

    class Module(nn.Module):
        def forward(self, boxes, scores, classes):
            return find_kept(boxes, scores, classes, 3, 0.5)

    boxes, scores, classes = random_candidates(3)
    program = torch.export.export(Module(), (boxes, scores, classes)).module()
    scores.fill_(-1)
    scores[1, :num_valid] = 0.5
    assert program(boxes, scores, classes).nonzero().tolist() == [[1, 0]] * num_valid


class Suppression(nn.Module):
    """The operator as a model."""

    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes

    def forward(self, boxes, scores, classes):
        return find_kept_onnx(boxes, scores, classes, self.num_classes, 0.5, NUM_BEST)


@pytest.mark.parametrize("num_classes", [1, 1203])
def test_in_onnx_no_kept_box_differs_from_exact_suppression(num_classes, tmp_path):
    pytest.importorskip("onnxscript")
    inputs = random_candidates(num_classes)
    program = torch.export.export(Suppression(num_classes), inputs)
    fields = dict.fromkeys(ProgramInfo.__dataclass_fields__, "")
    info = ProgramInfo(**{**fields, "input_shape": [2, 3, 4, 5], "outputs": ["is_kept"]})
    save_onnx(program, info, tmp_path / "x.onnx")
    session = open_session(tmp_path / "x.onnx")
    names = [x.name for x in session.get_inputs()]
    for seed in range(3):
        boxes, scores, classes = random_candidates(num_classes, seed=seed)
        values = (x.numpy() for x in (boxes, scores, classes))
        (is_kept,) = session.run(None, dict(zip(names, values, strict=True)))
        expected = exact_kept(boxes, scores, classes, 0.5)
        assert best_kept(torch.from_numpy(is_kept), scores) == expected
        assert min(map(len, expected)) == NUM_BEST
