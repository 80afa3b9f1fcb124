"""When a call is recorded, replayed, recorded again, or run without a recording."""

import copy
import pickle
import threading
import weakref

import pytest
import torch
from detectron2.utils import comm
from graph_recorders import CpuRecorder
from torch import nn
from torch.utils.checkpoint import checkpoint

from fcos_d2.modeling.cuda_graphs import CudaRecorder, GraphCache, graph_cache


class Network(nn.Module):
    """A network that counts how often its Python code runs."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8))
        self.frozen = nn.Linear(8, 3).requires_grad_(False)
        self.activation = nn.Module()
        self.activation.inner = nn.Tanh()
        self.mix = nn.Linear(8, 8, bias=False)
        self.num_runs = 0

    def forward(self, x):
        self.num_runs += 1
        return self.frozen(self.activation.inner(self.mix(self.layers(x))))


class Graphed:
    """A network whose calls go through a cache."""

    def __init__(self, network=None, recorder=None):
        torch.manual_seed(0)
        self.network = network or Network()
        self.recorder = recorder or CpuRecorder(self.network)
        self.cache = GraphCache("The network", self.recorder)
        self.settings = ()

    def __call__(self, x):
        return self.cache.call(self.network, [x], [self.network], self.settings)


def call(graphed, size=4, dtype=torch.float32):
    """Call a network, compare the result, and return whether a recording was launched."""
    before = graphed.recorder.num_launches
    x = torch.ones(size, 6, dtype=dtype)
    buffers = copy.deepcopy(list(graphed.network.buffers()))
    result = graphed(x)
    after = list(graphed.network.buffers())
    changed = copy.deepcopy(after)
    for buffer, old in zip(after, buffers, strict=True):
        buffer.copy_(old)
    torch.testing.assert_close(result, graphed.network(x))
    for buffer, new in zip(after, changed, strict=True):
        torch.testing.assert_close(buffer, new)
    return graphed.recorder.num_launches > before


@torch.no_grad()
def test_the_second_call_is_recorded_and_replayed():
    graphed = Graphed()
    assert [call(graphed) for _ in range(4)] == [False, True, True, True]
    assert graphed.recorder.num_captures == 1
    assert [call(graphed, 5) for _ in range(3)] == [False, True, True]
    assert call(graphed)
    assert graphed.recorder.num_captures == 2


def test_calls_with_and_without_gradients_have_separate_recordings():
    graphed = Graphed()
    for _ in range(2):
        graphed(torch.ones(4, 6)).sum().backward()
    assert graphed.recorder.num_captures == 2  # forward and backward
    with torch.no_grad():
        assert [call(graphed) for _ in range(3)] == [False, True, True]
    with torch.inference_mode():
        assert [call(graphed) for _ in range(3)] == [False, True, True]
    with torch.no_grad():
        assert call(graphed)


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
        lambda m: setattr(m.activation, "inner", nn.Sigmoid()),
        lambda m: setattr(m.mix.weight, "data", m.mix.weight.data.T),
        lambda m: m.eval(),
        lambda m: m.layers[1].eval(),
    ],
)
def test_a_change_of_the_modules_is_recorded_again(change):
    graphed = Graphed()
    call(graphed), call(graphed)
    change(graphed.network)
    assert [call(graphed) for _ in range(3)] == [False, True, True]


@torch.no_grad()
def test_a_change_of_types_settings_and_autocast_is_recorded_again():
    graphed = Graphed()
    assert [call(graphed) for _ in range(2)] == [False, True]
    graphed.settings = (2,)
    assert [call(graphed) for _ in range(2)] == [False, True]
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            assert [call(graphed) for _ in range(2)] == [False, True]
    graphed.network.double()
    assert [call(graphed, dtype=torch.float64) for _ in range(2)] == [False, True]


@torch.no_grad()
def test_weights_that_change_in_place_need_no_new_recording():
    graphed = Graphed()
    call(graphed), call(graphed)
    network = graphed.network
    network.load_state_dict({name: x + 1 for name, x in network.state_dict().items()})
    assert call(graphed)


@torch.no_grad()
def test_modes_that_alternate_keep_their_recordings():
    graphed = Graphed()
    network = graphed.network
    for is_training in (True, False, True, False):
        network.train(is_training)
        call(graphed)
    for is_training in (True, False):
        network.train(is_training)
        assert call(graphed)


@torch.no_grad()
def test_the_shapes_that_occur_most_are_kept(monkeypatch):
    monkeypatch.setattr(graph_cache, "_MAX_RECORDINGS", 2)
    graphed = Graphed()
    for size in (3, 3, 3, 4, 4, 4, 5, 5):
        call(graphed, size)
    # A size that occurs less often takes no place of another.
    assert [call(graphed, size) for size in (3, 4)] == [True, True]
    assert graphed.cache.num_recordings == 2
    assert [call(graphed, 5) for _ in range(4)] == [False, False, True, True]
    assert [call(graphed, size) for size in (4, 5)] == [True, True]
    assert graphed.cache.num_recordings == 2


@torch.no_grad()
def test_shapes_of_an_earlier_phase_are_forgotten(monkeypatch):
    monkeypatch.setattr(graph_cache, "_CALLS_UNTIL_HALVED", 10)
    monkeypatch.setattr(graph_cache, "_MAX_RECORDINGS", 1)
    graphed = Graphed()
    for _ in range(9):
        call(graphed, 2)
    for size in range(3, 30):  # each occurs once
        call(graphed, size)
    assert len(graphed.cache._entries) <= 11
    assert call(graphed, 2)
    assert [call(graphed, 40) for _ in range(8)][-1]


def replays(graphed, caplog):
    """Call a graphed three times, and return whether the last call was replayed."""
    caplog.clear()
    return [call(graphed) for _ in range(3)][-1]


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
    graphed = Graphed()
    assert replays(graphed, caplog)
    handle = register(graphed.network)
    assert not replays(graphed, caplog)
    assert len(caplog.records) == 1
    assert "hook" in caplog.text
    handle.remove()
    assert replays(graphed, caplog)


@torch.no_grad()
def test_synchronized_norms_of_several_processes_are_not_recorded(monkeypatch, caplog):
    network = Network()
    network.layers[1] = nn.SyncBatchNorm(8).eval()
    network.layers[1].training = True
    network.layers[1].forward = nn.Identity()
    graphed = Graphed(network)
    assert replays(graphed, caplog)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    assert not replays(graphed, caplog)
    assert "SyncBN" in caplog.text
    network.layers[1].eval()
    assert replays(graphed, caplog)


class ReadingNetwork(nn.Module):
    """A network that reads a value on the host, as a graph cannot."""

    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


@torch.no_grad()
def test_what_cannot_be_recorded_runs_normally_and_is_logged_once(caplog):
    graphed = Graphed(ReadingNetwork())
    assert not replays(graphed, caplog)
    call(graphed, 5), call(graphed, 5)
    assert graphed.recorder.num_captures == 1  # after a failure, nothing more is recorded
    assert graphed.recorder.is_broken
    (record,) = caplog.records
    assert "RuntimeError: aten._local_scalar_dense.default reads" in record.getMessage()


@torch.no_grad()
def test_nothing_is_launched_after_a_failure_as_the_state_of_the_memory_pool_is_unknown():
    network = Network()
    recorder = CpuRecorder(network)
    graphed, failing = Graphed(network, recorder), Graphed(ReadingNetwork(), recorder)
    call(graphed), call(graphed)
    call(failing), call(failing)
    assert not call(graphed)


class Result:
    """A result in which tensors cannot be found."""

    def __init__(self, value):
        self.value = value


@torch.no_grad()
def test_results_of_unknown_types_are_not_recorded(caplog):
    cache = GraphCache("The network", CpuRecorder())
    for _ in range(3):
        result = cache.call(Result, [torch.ones(2)], [])
    assert torch.equal(result.value, torch.ones(2))
    assert cache.recorder.num_captures == 0
    (record,) = caplog.records
    assert "Result" in record.getMessage()


def test_a_parameter_outside_of_the_modules_is_not_recorded(caplog):
    network, scale = Network(), nn.Parameter(torch.ones(()))
    cache = GraphCache("The network", CpuRecorder(network))
    for _ in range(3):
        scale.grad = None
        cache.call(lambda x: network(x) * scale, [torch.ones(4, 6)], [network]).sum().backward()
        assert scale.grad is not None
    assert cache.num_recordings == 0
    (record,) = caplog.records
    assert "parameter" in record.getMessage()


@torch.no_grad()
def test_the_layout_of_inputs_is_part_of_the_key():
    graphed = Graphed(nn.Flatten())
    x = torch.arange(12.0).view(3, 4)
    for value in (x, x.clone(), x.T.contiguous().T, x.T.contiguous().T, x):
        assert torch.equal(graphed(value), value)
    assert graphed.cache.num_recordings == 2
    for value in (x.long(), x.long(), x):
        assert graphed(value).dtype == value.dtype


def test_whether_inputs_need_gradients_is_part_of_the_key():
    graphed = Graphed()
    for _ in range(2):
        graphed(torch.ones(4, 6)).sum().backward()
    x = torch.ones(4, 6, requires_grad=True)
    for _ in range(3):
        x.grad = None
        graphed(x).sum().backward()
        assert x.grad is not None


@torch.no_grad()
def test_converted_weights_of_an_autocast_are_not_recorded():
    graphed = Graphed(nn.Linear(6, 3))
    with torch.autocast("cpu", torch.bfloat16), torch.enable_grad():
        for _ in range(2):  # recorded while autocast keeps the weights of the first call
            graphed(torch.ones(4, 6)).sum().backward()
    graphed.network.weight.mul_(3)
    with torch.autocast("cpu", torch.bfloat16), torch.enable_grad():
        result = graphed(torch.ones(4, 6))
        assert graphed.recorder.num_launches == 3
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(result, graphed.network(torch.ones(4, 6)))


def test_hooks_of_parameters_run_once():
    graphed = Graphed()
    weight = graphed.network.layers[0].weight
    weight.register_hook(lambda grad: grad * 0.5)
    grads = []
    for _ in range(3):
        graphed.network.zero_grad()
        graphed(torch.arange(24.0).view(4, 6)).square().sum().backward()
        grads.append(weight.grad.clone())
    assert graphed.recorder.num_launches == 4
    torch.testing.assert_close(grads[2], grads[0])


class Float32Layer(nn.Module):
    """A layer that leaves autocast, because its gradients need the range of float32."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((3, 3), 0.5))

    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            return (x.float() @ self.weight) * 1e5


def test_the_backward_pass_is_not_under_autocast():
    graphed = Graphed(nn.Sequential(nn.Linear(6, 3), Float32Layer()))
    grads = []
    for _ in range(3):
        graphed.network.zero_grad()
        with torch.autocast("cpu", torch.float16):
            result = graphed(torch.full((4, 6), 0.1))
        (result.sum() * 1e-3).backward()
        grads.append(graphed.network[1].weight.grad.clone())
    assert graphed.recorder.num_launches == 4
    assert torch.equal(grads[2], grads[0])


def test_nothing_is_recorded_in_a_backward_pass():
    graphed = Graphed()
    for _ in range(4):
        x = torch.ones(4, 6, requires_grad=True)
        checkpoint(graphed, x, use_reentrant=False).sum().backward()
        assert x.grad is not None


def test_gradients_reach_a_parameter_that_replaces_another_with_the_same_memory():
    graphed = Graphed()
    for _ in range(2):
        graphed(torch.ones(4, 6)).sum().backward()
    layer = graphed.network.layers[0]
    layer.weight = nn.Parameter(layer.weight.data)
    graphed(torch.ones(4, 6)).sum().backward()
    assert layer.weight.grad is not None


def test_threads_get_their_own_results():
    graphed = Graphed(nn.Linear(6, 3))
    inputs = [torch.full((4, 6), float(i)) for i in range(2)]
    with torch.no_grad():
        expected = [graphed.network(x) for x in inputs]
        graphed(inputs[0]), graphed(inputs[1])
    wrong = []

    def run(index):
        with torch.no_grad():
            for _ in range(100):
                if not torch.equal(graphed(inputs[index]), expected[index]):
                    wrong.append(index)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_error_of_the_function_itself_is_raised():
    graphed = Graphed()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        graphed(torch.ones(4, 7))


def test_a_second_forward_pass_before_the_backward_pass_runs_normally():
    graphed = Graphed()
    for _ in range(2):
        graphed(torch.ones(4, 6)).sum().backward()
    network = graphed.network
    network.zero_grad()
    inputs = [torch.randn(4, 6) for _ in range(2)]
    launches = graphed.recorder.num_launches
    first, second = map(graphed, inputs)
    assert graphed.recorder.num_launches == launches + 1
    (first**2).sum().backward()
    (second**2).sum().backward()
    grads = [x.grad.clone() for x in network.layers.parameters()]
    network.zero_grad()
    for x in inputs:
        (network(x) ** 2).sum().backward()
    for a, x in zip(grads, network.layers.parameters(), strict=True):
        torch.testing.assert_close(a, x.grad)
    assert_replays_training(graphed)


def assert_replays_training(graphed):
    launches = graphed.recorder.num_launches
    graphed(torch.ones(4, 6)).sum().backward()
    assert graphed.recorder.num_launches == launches + 2


def test_a_forward_pass_without_a_backward_pass_is_forgotten_with_its_results():
    graphed = Graphed()
    for _ in range(2):
        graphed(torch.ones(4, 6)).sum().backward()
    outputs = graphed(torch.ones(4, 6))
    assert graphed.recorder.is_pending()
    del outputs
    assert not graphed.recorder.is_pending()
    assert_replays_training(graphed)


@torch.no_grad()
def test_caches_in_a_cached_function_become_part_of_its_recordings():
    inner = Graphed()
    outer = GraphCache("outer", CpuRecorder(inner.network))
    for _ in range(4):
        outer.call(lambda x: inner(x) * 2, [torch.ones(4, 6)], [inner.network])
    assert outer.recorder.num_captures == 1
    assert inner.recorder.num_captures == 0
    assert [call(inner) for _ in range(2)] == [False, True]


@torch.no_grad()
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_have_their_own_recordings(duplicate):
    graphed = Graphed()
    call(graphed), call(graphed)
    copied = duplicate(graphed)
    assert copied.cache.num_recordings == 0
    assert copied.cache.recorder is not graphed.cache.recorder
    assert copied.cache.recorder is copied.recorder
    copied.recorder.modules = (copied.network,)
    assert [call(copied) for _ in range(2)] == [False, True]


def test_recordings_keep_no_module_alive():
    graphed = Graphed()
    for _ in range(2):
        graphed(torch.ones(4, 6)).sum().backward()
    known = weakref.ref(graphed.network)
    graphed.network = graphed.recorder.modules = None
    assert known() is None


@torch.no_grad()
def test_tracing_and_exporting_see_the_graphed():
    graphed = Graphed()
    call(graphed), call(graphed)
    network = graphed.network
    network.eval()
    call(graphed), call(graphed)

    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x):
            return graphed(x)

    x = torch.randn(4, 6)
    launches = graphed.recorder.num_launches
    traced = torch.jit.trace(Wrapper(), torch.ones(4, 6), check_trace=False)
    assert graphed.recorder.num_launches == launches
    torch.testing.assert_close(traced(x), network(x))


def test_nothing_is_recorded_on_a_cpu():
    graphed = Graphed(recorder=CudaRecorder())
    for _ in range(3):
        graphed(torch.ones(4, 6)).sum().backward()
    assert graphed.cache.num_recordings == 0
