"""When a call is recorded, replayed, recorded again, or run without a recording."""

import copy
import pickle

import pytest
import torch
from detectron2.utils import comm
from graph_recorders import CpuRecorder
from torch import nn

from fcos_d2.modeling.cuda_graphs import CudaRecorder, Graphed, graphed


class Network(nn.Module):
    """A network that counts how often its Python code runs."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8))
        self.frozen = nn.Linear(8, 3).requires_grad_(False)
        self.num_runs = 0

    def forward(self, x):
        self.num_runs += 1
        return self.frozen(self.layers(x))


class Bound:
    """A function of a network that can be copied and pickled, unlike one in a test."""

    def __init__(self, network):
        self.network = network

    def __call__(self, x):
        return self.network(x)

    def modules(self):
        return [self.network]


def make_graphed(network=None, recorder=None, **kwargs):
    torch.manual_seed(0)
    bound = Bound(network or Network())
    return Graphed("The network", bound, bound.modules, recorder or CpuRecorder(), **kwargs)


def call(function, size=4, dtype=torch.float32):
    """Call a graphed function, and return whether it was replayed."""
    before = function.recorder.num_launches
    x = torch.ones(size, 6, dtype=dtype)
    torch.testing.assert_close(function(x), function.function.network(x))
    return function.recorder.num_launches > before


@torch.no_grad()
def test_the_second_call_is_recorded_and_replayed():
    function = make_graphed()
    assert [call(function) for _ in range(4)] == [False, True, True, True]
    assert function.recorder.num_captures == 1
    assert [call(function, 5) for _ in range(3)] == [False, True, True]
    assert call(function)
    assert function.recorder.num_captures == 2


def test_calls_with_and_without_gradients_have_separate_recordings():
    function = make_graphed()
    for _ in range(2):
        function(torch.ones(4, 6)).sum().backward()
    assert function.recorder.num_captures == 2  # forward and backward
    with torch.no_grad():
        assert [call(function) for _ in range(3)] == [False, True, True]
    with torch.inference_mode():
        assert [call(function) for _ in range(3)] == [False, True, True]
    with torch.no_grad():
        assert call(function)


@torch.no_grad()
@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m.frozen, "weight", nn.Parameter(torch.zeros(3, 8))),
        lambda m: setattr(m.frozen.weight, "data", torch.zeros(3, 8)),
        lambda m: setattr(m.layers, "1", nn.BatchNorm1d(8)),
        lambda m: setattr(m.layers[1], "running_mean", torch.ones(8)),
        lambda m: m.frozen.requires_grad_(True),
        lambda m: setattr(m, "frozen", nn.Linear(8, 3)),
        lambda m: m.eval(),
        lambda m: m.layers[1].eval(),
    ],
)
def test_a_change_of_the_modules_is_recorded_again(change):
    function = make_graphed()
    call(function), call(function)
    change(function.function.network)
    assert [call(function) for _ in range(3)] == [False, True, True]


@torch.no_grad()
def test_a_change_of_types_settings_and_autocast_is_recorded_again():
    settings = [1]
    function = make_graphed(settings=lambda: tuple(settings))
    assert [call(function) for _ in range(2)] == [False, True]
    settings[0] = 2
    assert [call(function) for _ in range(2)] == [False, True]
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            assert [call(function) for _ in range(2)] == [False, True]
    function.function.network.double()
    assert [call(function, dtype=torch.float64) for _ in range(2)] == [False, True]


@torch.no_grad()
def test_weights_that_change_in_place_need_no_new_recording():
    function = make_graphed()
    call(function), call(function)
    network = function.function.network
    network.load_state_dict({name: x + 1 for name, x in network.state_dict().items()})
    assert call(function)


@torch.no_grad()
def test_modes_that_alternate_keep_their_recordings():
    function = make_graphed()
    network = function.function.network
    for is_training in (True, False, True, False):
        network.train(is_training)
        call(function)
    for is_training in (True, False):
        network.train(is_training)
        assert call(function)


@torch.no_grad()
def test_the_shapes_that_occur_most_are_kept(monkeypatch):
    monkeypatch.setattr(graphed, "_MAX_RECORDINGS", 2)
    function = make_graphed()
    for size in (3, 3, 3, 4, 4, 4, 5, 5):
        call(function, size)
    # A size that occurs less often takes no place of another.
    assert [call(function, size) for size in (3, 4)] == [True, True]
    assert len(function.recordings) == 2
    assert [call(function, 5) for _ in range(4)] == [False, False, True, True]
    assert [call(function, size) for size in (4, 5)] == [True, True]
    assert len(function.recordings) == 2


@torch.no_grad()
def test_shapes_that_occur_once_are_forgotten(monkeypatch):
    monkeypatch.setattr(graphed, "_MAX_COUNTS", 3)
    function = make_graphed()
    call(function, 2), call(function, 2)
    for size in range(3, 20):
        call(function, size)
    assert len(function._counts) <= 4
    assert call(function, 2)


def replays(function, caplog):
    """Call a function three times, and return whether the last call was replayed."""
    caplog.clear()
    return [call(function) for _ in range(3)][-1]


@torch.no_grad()
@pytest.mark.parametrize(
    "register",
    [
        lambda m: m.frozen.register_forward_hook(lambda *_: None),
        lambda m: m.frozen.register_forward_pre_hook(lambda *_: None),
        lambda m: m.layers.register_full_backward_hook(lambda *_: None),
        lambda m: m.register_full_backward_pre_hook(lambda *_: None),
        lambda m: nn.modules.module.register_module_forward_hook(lambda *_: None),
    ],
)
def test_hooks_run_in_every_call(register, caplog):
    function = make_graphed()
    assert replays(function, caplog)
    handle = register(function.function.network)
    assert not replays(function, caplog)
    assert len(caplog.records) == 1
    assert "hook" in caplog.text
    handle.remove()
    assert replays(function, caplog)


@torch.no_grad()
def test_synchronized_norms_of_several_processes_are_not_recorded(monkeypatch, caplog):
    network = Network()
    network.layers[1] = nn.SyncBatchNorm(8).eval()
    network.layers[1].training = True
    network.layers[1].forward = nn.Identity()
    function = make_graphed(network)
    assert replays(function, caplog)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    assert not replays(function, caplog)
    assert "SyncBN" in caplog.text
    network.layers[1].eval()
    assert replays(function, caplog)


class FailingRecorder(CpuRecorder):
    """A recorder that cannot record anything."""

    def capture(self, function):
        self.num_captures += 1
        raise RuntimeError("a value was read on the host.\nMore lines.")


@torch.no_grad()
def test_what_cannot_be_recorded_runs_normally_and_is_logged_once(caplog):
    function = make_graphed(recorder=FailingRecorder())
    assert not replays(function, caplog)
    call(function, 5), call(function, 5)
    assert function.recorder.num_captures == 2  # one attempt for each size
    (record,) = caplog.records
    assert "RuntimeError: a value was read on the host. " in record.getMessage()
    assert "More lines" not in record.getMessage()


def test_an_error_of_the_function_itself_is_raised():
    function = make_graphed()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        function(torch.ones(4, 7))


def test_a_second_forward_pass_before_the_backward_pass_runs_normally():
    function = make_graphed()
    for _ in range(2):
        function(torch.ones(4, 6)).sum().backward()
    network = function.function.network
    network.zero_grad()
    inputs = [torch.randn(4, 6) for _ in range(2)]
    launches = function.recorder.num_launches
    first, second = map(function, inputs)
    assert function.recorder.num_launches == launches + 1
    (first**2).sum().backward()
    (second**2).sum().backward()
    grads = [x.grad.clone() for x in network.layers.parameters()]
    network.zero_grad()
    for x in inputs:
        (network(x) ** 2).sum().backward()
    for a, x in zip(grads, network.layers.parameters(), strict=True):
        torch.testing.assert_close(a, x.grad)
    assert_replays_training(function)


def assert_replays_training(function):
    launches = function.recorder.num_launches
    function(torch.ones(4, 6)).sum().backward()
    assert function.recorder.num_launches == launches + 2


def test_a_forward_pass_without_a_backward_pass_is_forgotten_with_its_results():
    function = make_graphed()
    for _ in range(2):
        function(torch.ones(4, 6)).sum().backward()
    outputs = function(torch.ones(4, 6))
    assert function.recorder.is_pending()
    del outputs
    assert not function.recorder.is_pending()
    assert_replays_training(function)


@torch.no_grad()
def test_graphed_functions_in_a_graphed_function_become_part_of_it():
    inner = make_graphed()
    outer = Graphed("outer", lambda x: inner(x) * 2, inner.modules, CpuRecorder())
    for _ in range(4):
        outer(torch.ones(4, 6))
    assert outer.recorder.num_captures == 1
    assert inner.recorder.num_captures == 0
    assert [call(inner) for _ in range(2)] == [False, True]


@torch.no_grad()
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_have_their_own_recordings(duplicate):
    function = make_graphed()
    call(function), call(function)
    copied = duplicate(function)
    assert not copied.recordings
    assert copied.function.network is not function.function.network
    assert copied.recorder is not function.recorder
    assert [call(copied) for _ in range(2)] == [False, True]


@torch.no_grad()
def test_tracing_and_exporting_see_the_function():
    function = make_graphed()
    call(function), call(function)
    network = function.function.network
    network.eval()
    call(function), call(function)

    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x):
            return function(x)

    x = torch.randn(4, 6)
    traced = torch.jit.trace(Wrapper(), torch.ones(4, 6), check_trace=False)
    torch.testing.assert_close(traced(x), network(x))


def test_nothing_is_recorded_on_a_cpu():
    recorder = CudaRecorder()
    assert not recorder.can_record(torch.device("cpu"))
    function = make_graphed(recorder=recorder)
    for _ in range(3):
        function(torch.ones(4, 6)).sum().backward()
    assert not function.recordings
