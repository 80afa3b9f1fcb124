"""The recorder of CUDA graphs: what it asks of PyTorch, on a GPU that does not exist."""

import contextlib
import gc

import pytest
import torch

from fcos_d2.modeling.cuda_graphs import CudaRecorder

DEVICE = torch.device("cuda", 1)


class FakeStream:
    def __init__(self, device):
        self.device = device

    def wait_stream(self, other):
        pass


class FakeGenerator:
    """A random generator that expects recordings while one is made."""

    def __init__(self):
        self.state = "idle"

    def clone_state(self):
        return self.state

    def graphsafe_set_state(self, state):
        self.state = state


class FakeCuda:
    """The parts of torch.cuda that the recorder uses, which log how they are used."""

    def __init__(self, fails_at=None):
        self.log = []
        self.fails_at = fails_at
        self.caller = FakeStream(DEVICE)
        self.generators = [FakeGenerator(), FakeGenerator()]
        self.is_capturing = False
        fake = self

        class Graph:
            def capture_begin(self, pool, capture_error_mode):
                fake.log.append(("begin", pool, capture_error_mode, gc.isenabled()))
                fake.is_capturing = True
                fake.generators[1].state = "capturing"
                fake.fail("begin")

            def capture_end(self):
                fake.log.append(("end",))
                fake.is_capturing = False
                fake.fail("end")
                fake.generators[1].state = "idle"

            def replay(self):
                fake.log.append(("replay", fake.current))

        self.current = torch.device("cuda", 0)
        self.CUDAGraph = Graph

    def fail(self, step):
        if self.fails_at == step and len([x for x in self.log if x[0] == step]) > 1:
            raise RuntimeError(step)  # not for the graph that keeps the pool

    @contextlib.contextmanager
    def device(self, device):
        before, self.current = self.current, device
        try:
            yield
        finally:
            self.current = before

    def install(self, monkeypatch):
        for name, value in {
            "CUDAGraph": self.CUDAGraph,
            "device": self.device,
            "Stream": FakeStream,
            "stream": lambda stream: contextlib.nullcontext(),
            "current_stream": lambda device: self.caller,
            "graph_pool_handle": lambda: "pool",
            "empty_cache": lambda: self.log.append(("empty_cache",)),
            "is_current_stream_capturing": lambda: self.is_capturing,
            "default_generators": self.generators,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value, raising=False)
        monkeypatch.setattr(torch, "zeros", lambda *_, **__: None)
        monkeypatch.setattr(
            torch._C,
            "_cuda_endAllocateToPool",
            lambda *args: self.log.append(("close", *args)),
            raising=False,
        )
        return self


def test_calls_are_recorded_and_launched_on_their_device(monkeypatch):
    cuda = FakeCuda().install(monkeypatch)
    recorder = CudaRecorder()
    assert recorder.can_record(DEVICE)
    launch, result = recorder.capture(lambda: cuda.log.append(("run", cuda.current)) or 5, DEVICE)
    assert result == 5
    launch()
    begin, end = ("begin", "pool", "thread_local", False), ("end",)
    assert cuda.log == [
        *(begin, end),  # the graph that keeps the pool
        ("empty_cache",),
        *(begin, ("run", DEVICE), end),
        ("replay", DEVICE),
    ]
    assert gc.isenabled()
    recorder.capture(lambda: None, DEVICE)
    assert len([x for x in cuda.log if x[0] == "begin"]) == 3  # one pool for all


def test_calls_on_other_devices_and_streams_and_inside_of_graphs_run_normally(monkeypatch):
    cuda = FakeCuda().install(monkeypatch)
    recorder = CudaRecorder()
    recorder.capture(lambda: None, DEVICE)
    assert recorder.can_record(DEVICE)
    assert not recorder.can_record(torch.device("cuda", 0))
    cuda.caller = FakeStream(DEVICE)
    assert not recorder.can_record(DEVICE)
    other = CudaRecorder()
    assert other.can_record(DEVICE)
    cuda.is_capturing = True
    assert not other.can_record(DEVICE)


@pytest.mark.parametrize("step", ["begin", "run", "end"])
def test_a_failure_ends_the_recording_and_all_later_ones(step, monkeypatch):
    cuda = FakeCuda(fails_at=step).install(monkeypatch)

    def run():
        if step == "run":
            raise ValueError(step)

    recorder = CudaRecorder()
    with pytest.raises((RuntimeError, ValueError), match=step):
        recorder.capture(run, DEVICE)
    assert recorder.is_broken
    assert not recorder.can_record(DEVICE)
    assert gc.isenabled()
    assert cuda.current == torch.device("cuda", 0)
    assert cuda.generators[1].state == "idle"  # else dropout would fail from here on
    assert cuda.log[-1] == ("close", 1, "pool")
    if step == "run":
        assert cuda.log[-2] == ("end",)


def test_an_error_at_the_end_does_not_hide_the_first_one(monkeypatch):
    FakeCuda(fails_at="end").install(monkeypatch)

    def run():
        raise ValueError("the reason")

    with pytest.raises(ValueError, match="the reason"):
        CudaRecorder().capture(run, DEVICE)


def test_a_copy_is_a_new_recorder():
    recorder = CudaRecorder()
    recorder.buffer("input", 0, 4, torch.float32, torch.device("cpu"))
    function, arguments = recorder.__reduce__()
    assert not function(*arguments)._buffers


def test_buffers_grow_and_are_separate_in_inference_mode():
    recorder, place = CudaRecorder(), (torch.float32, torch.device("cpu"))
    first = recorder.buffer("input", 0, 4, *place)
    assert recorder.buffer("input", 0, 3, *place).data_ptr() == first.data_ptr()
    assert recorder.buffer("input", 1, 3, *place).data_ptr() != first.data_ptr()
    assert recorder.buffer("input", 0, 4, torch.float16, place[1]).dtype == torch.float16
    larger = recorder.buffer("input", 0, 8, *place)
    assert larger.shape == (8,)
    assert recorder.buffer("input", 0, 12, *place).data_ptr() == larger.data_ptr()
    with torch.inference_mode():
        assert recorder.buffer("input", 0, 4, *place).is_inference()
    assert not recorder.buffer("input", 0, 4, *place).is_inference()
