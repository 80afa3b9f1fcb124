"""Two processes compute the losses and gradients of one process with the same global batch."""

import pytest
import torch
from detectron2.structures import Boxes
from detectron2.utils import comm
from tiny import MAP_SIZES, random_input, seeded_model
from two_processes import run_in_two_processes

from fcos_d2.engine.trainer import wrap_in_ddp

# The statistics of the norms do not depend on the batch: the head has GN, the backbone FrozenBN.
FROZEN = {"MODEL.RESNETS.NORM": "FrozenBN"}
SYNC = {f"MODEL.{part}.NORM": "SyncBN" for part in ("RESNETS", "FPN", "FCOS")}


def build(opts):
    model = seeded_model(FROZEN, opts)
    # With frozen statistics and random weights, the maps are huge: make them smaller.
    with torch.no_grad():
        for conv in model.backbone.lateral_convs:
            conv.weight.mul_(1e-3)
    for name, buffer in model.named_buffers():
        if name.endswith("moving_num_positives"):
            buffer.fill_(
                40.0
            )  # the value in a checkpoint, which does not depend on the number of processes
    # Fifty layers of batch norm amplify rounding errors.
    return model.double() if opts == SYNC else model


def losses_and_gradients(model, inputs):
    losses = model(inputs)
    sum(losses.values()).backward()
    module = getattr(model, "module", model)
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return {name: value.detach() for name, value in losses.items()}, gradients


# name: (numbers of boxes of the images of each rank, further options)
CASES = {
    "boxes on both ranks": ([(4, 2), (1, 5)], {}),
    "no positives on one rank": ([(4, 2), (0, 0)], {}),
    "fewer positives than processes": ([(0, 1), (0, 0)], {}),
    "no positives at all": ([(0, 0), (0, 0)], {}),
    "whole boxes, none on one rank": (
        [(4, 2), (0, 0)],
        {"MODEL.FCOS.CENTER_SAMPLING_RADIUS": 0.0},
    ),
    "quality iou, none on one rank": ([(4, 2), (0, 0)], {"MODEL.FCOS.BOX_QUALITY": "iou"}),
    "no quality, divided by all locations": (
        [(4, 2), (1, 0)],
        {"MODEL.FCOS.BOX_QUALITY": "none", "MODEL.FCOS.LOSS_NORMALIZER": "all"},
    ),
    "ignore boxes on one rank": ([(4, 2), (1, 5)], {}),
    "moving average of the positives": (
        [(4, 2), (1, 5)],
        {"MODEL.FCOS.LOSS_NORMALIZER": "moving_fg"},
    ),
    # PyTorch's SyncBN would raise on a CPU. With images of one size, all processes count equally.
    "synchronized norms everywhere": ([(4, 2), (1, 5)], SYNC),
}


def inputs_of(case):
    nums_of_boxes, _ = CASES[case]
    inputs = [
        [random_input(n, seed=10 * rank + i) for i, n in enumerate(nums_of_rank)]
        for rank, nums_of_rank in enumerate(nums_of_boxes)
    ]
    if case == "fewer positives than processes":
        # A box with a single location, (12, 12).
        inputs[0][1]["instances"].gt_boxes.tensor[0] = torch.tensor([9.0, 9.0, 15.0, 15.0])
    if case == "ignore boxes on one rank":
        inputs[1][0]["gt_ignore_boxes"] = Boxes(torch.tensor([[10.0, 10.0, 90.0, 90.0]]))
    return inputs


def run_all_cases(rank, _):
    """Return {case: (losses, gradients)} of one of two processes, with losses averaged."""
    results = {}
    for case, (_, opts) in CASES.items():
        model = wrap_in_ddp(build(opts))
        assert isinstance(model, torch.nn.parallel.DistributedDataParallel)
        losses, gradients = losses_and_gradients(model, inputs_of(case)[rank])
        # DDP averages gradients; the log averages losses in the same way.
        losses = {name: comm.all_gather(value.item()) for name, value in losses.items()}
        results[case] = {name: sum(values) / 2 for name, values in losses.items()}, gradients
    return results


@pytest.fixture(scope="module")
def results_of_two_processes(tmp_path_factory):
    return run_in_two_processes(run_all_cases, tmp_path_factory.mktemp("two_processes"))[0]


@pytest.fixture
def _one_thread():
    """Use one thread, so that sums are computed in the same order as in the two processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("case", CASES)
def test_two_processes_compute_the_losses_and_gradients_of_one(results_of_two_processes, case):
    inputs = [x for inputs_of_rank in inputs_of(case) for x in inputs_of_rank]
    losses, gradients = losses_and_gradients(build(CASES[case][1]), inputs)
    shared_losses, shared_gradients = results_of_two_processes[case]
    assert shared_losses.keys() == losses.keys()
    for name, value in losses.items():
        assert shared_losses[name] == pytest.approx(value.item(), rel=1e-5, abs=1e-7)
    assert shared_gradients.keys() == gradients.keys()
    for name, value in gradients.items():
        torch.testing.assert_close(shared_gradients[name], value, rtol=1e-3, atol=1e-6, msg=name)


def test_the_case_with_fewer_positives_than_processes_has_one_positive():
    inputs = inputs_of("fewer positives than processes")
    instances = [x["instances"] for inputs_of_rank in inputs for x in inputs_of_rank]
    assert build({}).assigner(instances, MAP_SIZES).is_positive.sum() == 1
