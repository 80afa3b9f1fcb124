"""Two processes with CUDA graphs train as two processes without; on a GPU, they share it."""

import copy

import pytest
import torch
from graph_recorders import DEVICES, make_recorder
from tiny import random_input, seeded_model
from torch.nn.parallel import DistributedDataParallel
from two_processes import run_in_two_processes

from fcos_d2.modeling.cuda_graphs import FCOSGraphs


def train_on(device, rank):
    """Train with and without graphs, and return the weights of both and the replays."""
    opts = {"MODEL.FCOS.LOSS_NORMALIZER": "moving_fg", "MODEL.RESNETS.NORM": "FrozenBN"}
    expected = seeded_model(opts).to(device)
    with torch.no_grad():  # with frozen statistics and random weights, the maps are huge
        for conv in expected.backbone.lateral_convs:
            conv.weight.mul_(1e-3)
    graphed = copy.deepcopy(expected)
    recorder = make_recorder(device, graphed)
    graphed.graphs = FCOSGraphs(trains=True, recorder=recorder)
    replays = []
    for model in (graphed, expected):
        # Buffers differ between the processes, as in our trainer.
        parallel = DistributedDataParallel(model, broadcast_buffers=False)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        for step in range(6):
            size = [(96, 128), (64, 96)][step % 2]
            # No boxes in some batches of one process.
            boxes = 0 if rank and step % 3 == 0 else 3 + step
            inputs = [random_input(boxes, *size, seed=2 * step + rank)]
            if step == 3:  # gradients that are only added up
                with parallel.no_sync():
                    sum(parallel(inputs).values()).backward()
                continue
            sum(parallel(inputs).values()).backward()
            optimizer.step()
            optimizer.zero_grad()
        replays.append(model.graphs.training.num_recordings if model.graphs else 0)
    return [[x.detach().cpu() for x in m.parameters()] for m in (graphed, expected)], replays


def train_on_cpu(rank, folder):
    return train_on("cpu", rank)


def train_on_cuda(rank, folder):
    return train_on("cuda", rank)


@pytest.mark.parametrize("device", DEVICES)
def test_weights_are_those_without_graphs(device, tmp_path):
    train = train_on_cpu if device == "cpu" else train_on_cuda
    results = run_in_two_processes(train, tmp_path)
    for (graphed, expected), replays in results:
        assert replays == [2, 0]
        for a, b in zip(graphed, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    for a, b in zip(results[0][0][0], results[1][0][0], strict=True):
        assert torch.equal(a, b)
