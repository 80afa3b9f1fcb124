"""Recorded calls: outputs and gradients belong to the caller, and a backward pass runs once."""

import pytest
import torch
from graph_recorders import DEVICES, make_recorder
from torch import nn

from fcos_d2.modeling.cuda_graphs.module_state import list_modules
from fcos_d2.modeling.cuda_graphs.recording import launch, record


def make_network(device, *layers):
    torch.manual_seed(0)
    return nn.Sequential(*layers or (nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))).to(device)


def record_network(network, device, function=None, requires_grad=False):
    """Run a network once, then record it; return a function that launches the recording."""
    function = function or network
    recorder = make_recorder(device, network)
    example = torch.randn(4, 6, device=device, requires_grad=requires_grad)
    outputs = function(example)
    if torch.is_grad_enabled():
        (outputs if isinstance(outputs, torch.Tensor) else outputs["y"]).sum().backward()
        network.zero_grad()
    recording = record(recorder, function, [example], list_modules([network]))
    return lambda x: launch(recorder, recording, [x])


def gradients(network):
    return [None if x.grad is None else x.grad.clone() for x in network.parameters()]


def assert_equal(values, expected):
    for a, b in zip(values, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_are_those_without_a_recording(device):
    network = make_network(device)
    run = record_network(network, device, requires_grad=True)
    for seed in range(3):
        x = torch.randn(4, 6, device=device, generator=torch.Generator(device).manual_seed(seed))
        x.requires_grad_()
        results = []
        for function in (run, network):
            network.zero_grad()
            x.grad = None
            (function(x) ** 2).sum().backward()
            results.append([x.grad, *gradients(network)])
        assert_equal(*results)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradients_of_several_steps_add_up(device, set_to_none):
    network = make_network(device)
    run = record_network(network, device)
    inputs = [torch.randn(4, 6, device=device) for _ in range(3)]
    results = []
    for function in (run, network):
        network.zero_grad(set_to_none=set_to_none)
        for x in inputs:
            (function(x) ** 2).sum().backward()
        results.append(gradients(network))
    assert_equal(*results)


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_of_an_earlier_step_are_kept(device):
    network = make_network(device)
    run = record_network(network, device)
    run(torch.ones(4, 6, device=device)).sum().backward()
    kept, copies = [x.grad for x in network.parameters()], gradients(network)
    network.zero_grad(set_to_none=True)
    (run(torch.randn(4, 6, device=device)) * 5).sum().backward()
    assert_equal(kept, copies)


@pytest.mark.parametrize("device", DEVICES)
def test_outputs_of_an_earlier_call_are_kept(device):
    network = make_network(device)
    with torch.no_grad():
        run = record_network(network, device)
        first = run(torch.ones(4, 6, device=device))
        copy = first.clone()
        run(torch.zeros(4, 6, device=device))
    assert torch.equal(first, copy)


@pytest.mark.parametrize("device", DEVICES)
def test_frozen_and_unused_parameters_have_no_gradient(device):
    network = make_network(device)
    network[0].weight.requires_grad_(False)
    network.unused = nn.Parameter(torch.zeros(2, device=device))
    run = record_network(network, device, lambda x: network[2](network[1](network[0](x))))
    run(torch.randn(4, 6, device=device)).sum().backward()
    assert network.unused.grad is None
    assert network[0].weight.grad is None
    assert network[0].bias.grad is not None


@pytest.mark.parametrize("device", DEVICES)
def test_results_keep_their_structure(device):
    network = make_network(device)

    def function(x):
        y = network(x)
        return {"y": y, "rest": [y.detach() + 1, ("text", None, 3)], "index": x.argmax(dim=1)}

    run = record_network(network, device, function)
    x = torch.randn(4, 6, device=device)
    result, expected = run(x), function(x)
    assert result["rest"][1] == ("text", None, 3)
    torch.testing.assert_close(result["rest"][0], expected["rest"][0])
    assert torch.equal(result["index"], expected["index"])
    assert result["y"].requires_grad
    assert not result["rest"][0].requires_grad
    result["y"].sum().backward()
    assert all(x.grad is not None for x in network.parameters())


@pytest.mark.parametrize("device", DEVICES)
def test_an_output_may_have_no_gradient_in_a_step(device):
    network = make_network(device)

    def function(x):
        y = network(x)
        return {"y": y, "z": y * 2}

    run = record_network(network, device, function)
    x = torch.randn(4, 6, device=device)
    results = []
    for call in (run, function):
        network.zero_grad()
        call(x)["z"].sum().backward()
        results.append(gradients(network))
        network.zero_grad()
        call(x)["y"].sum().backward()
        results[-1] += gradients(network)
    assert_equal(*results)


@pytest.mark.parametrize("device", DEVICES)
def test_a_second_backward_pass_is_an_error(device):
    run = record_network(make_network(device), device)
    loss = run(torch.randn(4, 6, device=device)).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="CUDA_GRAPHS"):
        loss.backward()


def test_a_gradient_of_a_gradient_is_an_error():
    run = record_network(make_network("cpu"), "cpu", requires_grad=True)
    x = torch.randn(4, 6, requires_grad=True)
    (grad,) = torch.autograd.grad((run(x) ** 2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_gradients_have_the_memory_format_of_their_parameters():
    network = nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)
    recorder, image = make_recorder("cpu", network), torch.randn(1, 4, 8, 8)
    network(image)
    recording = record(recorder, network, [image], list_modules([network]))
    launch(recorder, recording, [image]).sum().backward()
    assert network.weight.grad.stride() == network.weight.stride() != (36, 9, 3, 1)


@pytest.mark.parametrize("device", DEVICES)
def test_recording_changes_no_buffer_and_no_random_state(device):
    network = make_network(device, nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
    network(torch.randn(4, 6, device=device)).sum().backward()
    buffers = [x.clone() for x in network.buffers()]
    state = torch.get_rng_state() if device == "cpu" else torch.cuda.get_rng_state()
    recorder = make_recorder(device, network)
    example = torch.randn(4, 6, device=device)
    recording = record(recorder, network, [example], list_modules([network]))
    after = torch.get_rng_state() if device == "cpu" else torch.cuda.get_rng_state()
    assert device == "cpu" or torch.equal(state, after)
    assert_equal(list(network.buffers()), buffers)
    results = []
    for function in (lambda x: launch(recorder, recording, [x]), network):
        torch.manual_seed(1)
        with torch.no_grad():
            for x, value in zip(network.buffers(), buffers, strict=True):
                x.copy_(value)
        outputs = [function(torch.ones(4, 6, device=device)).detach() for _ in range(2)]
        results.append([*outputs, *(x.clone() for x in network.buffers())])
    assert not torch.equal(results[0][0], results[0][1])  # each launch draws other numbers
    assert_equal(*results)


@pytest.mark.parametrize("device", DEVICES)
def test_weights_may_change_in_place(device):
    network = make_network(device)
    with torch.no_grad():
        run = record_network(network, device)
        network[0].weight.mul_(2)
        x = torch.randn(4, 6, device=device)
        torch.testing.assert_close(run(x), network(x))


def test_recordings_share_their_buffers():
    network = make_network("cpu")
    recorder = make_recorder("cpu", network)
    modules = list_modules([network])
    first, second = (record(recorder, network, [torch.randn(n, 6)], modules) for n in (4, 3))
    assert first.inputs[0].data_ptr() == second.inputs[0].data_ptr()
    assert first.outputs[0].data_ptr() == second.outputs[0].data_ptr()
    pointers = [
        [x.data_ptr() for x in recording.backward.grads._buffers.values()]
        for recording in (first, second)
    ]
    assert pointers[0] == pointers[1]
    larger = record(recorder, network, [torch.randn(9, 6)], modules)
    assert larger.inputs[0].data_ptr() != first.inputs[0].data_ptr()
    torch.testing.assert_close(
        launch(recorder, first, [torch.ones(4, 6)]), network(torch.ones(4, 6))
    )


def test_gradients_become_the_parameters_without_a_copy():
    network = make_network("cpu")
    record_network(network, "cpu")(torch.randn(4, 6)).sum().backward()
    storages = {x.grad.untyped_storage().data_ptr() for x in network.parameters()}
    assert len(storages) == 1  # all are parts of one copy
