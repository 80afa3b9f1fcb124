"""The benchmarks: all are asked for the same work, and what was measured is kept."""

import dataclasses
import json
import logging
import math
import platform
import re
import time

import benchmark
import cases
import contest
import machine
import measuring
import performance_page
import profile_stages
import pytest
import torch
from adapters import build_adapters
from cases import GROUPS
from contest import Bench, Case
from counting import count_operations, count_values_read
from demands import DEMANDS, find_case
from measuring import Work, autocast, precision
from performance_plots import PLOTS
from workloads import FULL, QUICK, STRIDES, draw_batch, draw_maps, make_cfg

from fcos_d2 import FCOSAssigner
from fcos_d2.modeling.levels import Levels

NUM_CLASSES = 5
# Padded to a multiple of 128: torchvision's grid is that of the strides.
IMAGE_SIZE = (256, 384)


@pytest.fixture(autouse=True)
def _logging_kept():
    yield
    logging.disable(logging.NOTSET)  # which the commands turn down


@pytest.fixture(scope="module")
def adapters():
    return build_adapters(make_cfg(QUICK, "cpu"))


@pytest.fixture(scope="module")
def adapters_at_corners():
    """With the locations of torchvision."""
    return build_adapters(make_cfg(QUICK, "cpu", "MODEL.FCOS.LOCATION_OFFSET", 0.0))


@pytest.fixture(scope="module")
def batch():
    return draw_batch(2, IMAGE_SIZE, 20, NUM_CLASSES, "cpu")


def gradients(adapter, batch, maps):
    """Of the losses, for each raw map."""
    work = adapter.losses(batch, maps)
    leaves = work.prepare()
    work.run(leaves)
    return [[x.grad for x in levels] for levels in leaves]


def test_detectron2_assigns_the_same_classes(adapters, batch):
    ours, detectron2, _ = (adapter.labels(batch, NUM_CLASSES) for adapter in adapters)
    assert (ours < NUM_CLASSES).sum() > 100
    assert torch.equal(ours, detectron2)


def test_torchvision_assigns_the_same_classes_at_its_locations(adapters_at_corners, batch):
    ours, detectron2, torchvision = (x.labels(batch, NUM_CLASSES) for x in adapters_at_corners)
    assert torch.equal(ours, torchvision)
    assert not torch.equal(ours, detectron2)


@torch.no_grad()
def test_all_have_the_same_weights(adapters, batch):
    image = draw_batch(1, IMAGE_SIZE, 1, NUM_CLASSES, "cpu").draw_images()[0]
    outputs = []
    for adapter in adapters:
        model = adapter.model.eval()
        features = model.backbone(model.preprocess_image([{"image": image}]).tensor)
        outputs.append(model.head([features[name] for name in model.head_in_features]))
    ours, detectron2, torchvision = outputs[0][:3], *outputs[1:]
    torchvision_class = adapters[2]
    for our_maps, their_maps in zip(ours, detectron2, strict=True):
        torch.testing.assert_close(our_maps, their_maps, rtol=0, atol=1e-5)
    joined = torchvision_class.predictions_of(ours)
    assert joined.keys() == torchvision.keys()
    for name, values in joined.items():
        torch.testing.assert_close(values, torchvision[name], rtol=0, atol=1e-5)


def test_class_and_quality_losses_have_the_same_gradients(adapters_at_corners, batch):
    maps = draw_maps(batch, NUM_CLASSES)
    ours, _, torchvision = (gradients(x, batch, maps) for x in adapters_at_corners)
    for branch in (0, 2):  # the box loss is weighted by centre-ness in ours alone
        for our_grad, their_grad in zip(ours[branch], torchvision[branch], strict=True):
            torch.testing.assert_close(our_grad, their_grad, rtol=1e-3, atol=1e-7)


def test_all_losses_reach_all_maps(adapters, batch):
    for adapter in adapters:
        found = gradients(adapter, batch, draw_maps(batch, NUM_CLASSES))
        for levels in found:
            total = sum(x.abs().sum() for x in levels if x is not None)
            assert 0 < total < math.inf, adapter.name


def test_equally_many_candidates_pass_each_threshold(batch):
    maps = draw_maps(batch, NUM_CLASSES, num_candidates=500)
    assert sum((x.sigmoid() > 0.05).sum() for x in maps[0]) == 500
    root = cases._root_thresh(maps, 500)
    roots = [(x.sigmoid() * y.sigmoid()).sqrt() for x, y in zip(maps[0], maps[2], strict=True)]
    assert sum((x > root).sum() for x in roots) == 500


def test_a_threshold_holds_for_as_long_as_it_is_asked_for(adapters, batch):
    maps = draw_maps(batch, NUM_CLASSES, num_candidates=500)
    for adapter in adapters:
        work = adapter.selection(batch, maps)
        before = [len(x) for x in work.run(work.prepare())]
        with adapter.score_thresh(0.9999, 0.9999):
            assert [len(x) for x in work.run(work.prepare())] == [0, 0]
        assert [len(x) for x in work.run(work.prepare())] == before
        assert sum(before) > 0


def test_precision_is_what_it_was_afterwards():
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    for name, expected in (("float32", (False, False)), ("tf32", (True, True))):
        with precision(name):
            flags = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
            assert flags == expected
    assert before == (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)


def test_autocast_is_on_for_bf16_alone():
    for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        with autocast(name, torch.device("cpu")):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_calls_are_interleaved_and_shuffled_and_preparing_is_not_timed(monkeypatch):
    monkeypatch.setattr(measuring, "_SHORT_ROUND", 0)
    calls = []
    works = {
        name: Work(calls.append, prepare=lambda name=name: time.sleep(0.01) or name)
        for name in "abc"
    }
    found = measuring.time_interleaved(works, repeats=12, device="cpu")
    assert {name: len(x) for name, x in found.items()} == {"a": 12, "b": 12, "c": 12}
    rounds = [tuple(calls[i : i + 3]) for i in range(3, len(calls), 3)]
    assert all(sorted(x) == ["a", "b", "c"] for x in rounds)
    assert len(set(rounds)) > 1
    assert measuring.median(found["a"]) < 5


def test_of_short_rounds_there_are_more(monkeypatch):
    monkeypatch.setattr(measuring, "_SHORT_ROUND", 50)
    short, long = Work(lambda _: None), Work(lambda _: time.sleep(0.06))
    for works, rounds in (({"a": short, "b": short}, 6), ({"a": short, "b": long}, 2)):
        found = measuring.time_interleaved(works, repeats=2, device="cpu")
        assert {len(x) for x in found.values()} == {rounds}


def test_peak_memory_is_of_what_is_held_at_once():
    def one_after_the_other(_):
        for _ in range(3):
            torch.ones(250_000)

    def together(_):
        return [torch.ones(250_000) for _ in range(3)]

    assert measuring.peak_memory(Work(one_after_the_other), "cpu") == pytest.approx(1, rel=0.01)
    assert measuring.peak_memory(Work(together), "cpu") == pytest.approx(3, rel=0.01)


@pytest.mark.parametrize(
    ("radius", "num_images", "limit"), [(1.5, 1, 10), (0.0, 16, 64), (16.0, 16, 64)]
)
def test_memory_of_targets_has_a_bound(radius, num_images, limit):
    """Megabytes; dense rules take 300 and more for an image."""
    batch = draw_batch(num_images, FULL.image, 500, 80, "cpu")
    assign = FCOSAssigner(levels=Levels(STRIDES), center_sampling_radius=radius)
    work = Work(lambda _: assign(batch.instances, batch.feature_sizes))
    assert 0.1 < measuring.peak_memory(work, "cpu") < limit


def test_targets_of_ours_take_less_memory_than_the_others(adapters, batch):
    peaks = [measuring.peak_memory(adapter.targets(batch), "cpu") for adapter in adapters]
    assert peaks[0] < min(peaks[1:])


def test_operations_and_values_read_are_counted_beneath_autograd_too():
    x = torch.ones(3, 2, requires_grad=True)
    forward_and_back = Work(lambda _: (x * 2).view(2, 3).T.sum().backward())
    # There: a product and a sum; back: ones, and a product. The others are sights of a tensor.
    assert count_operations(forward_and_back) == 4
    assert count_values_read(forward_and_back) == 0
    # The mask's places, and the sum.
    assert count_values_read(Work(lambda _: x[x > 0].sum().item())) == 2
    # A product of each row: the way back asks how many zeros there are.
    assert count_values_read(Work(lambda _: x.prod(dim=1).sum().backward())) == 1


def test_ours_reads_nothing_and_asks_for_as_much_whatever_the_batch(adapters):
    counts = []
    for num_images in (2, 4):
        batch = draw_batch(num_images, IMAGE_SIZE, 5, NUM_CLASSES, "cpu")
        work = adapters[0].losses(batch, draw_maps(batch, NUM_CLASSES))
        counts.append(count_operations(work))
        assert count_values_read(work) == 0
    assert counts[0] == counts[1]


def test_growth_is_a_power():
    assert measuring.growth_exponent([1, 2, 4], [3.0, 0.0, 48.0]) == pytest.approx(2)
    assert measuring.growth_exponent([5, 500], [7.0, 7.0]) == 0


def test_machine_is_described_without_its_name():
    words = machine.describe_machine("cpu")
    assert torch.__version__ in words["torch"]
    assert all(platform.node() not in value for value in words.values())


def test_ratio_is_to_the_best_of_the_others_or_to_the_defaults():
    times = {"fcos_d2": [2.0], "fcos_d2, bf16": [1.0], "torchvision": [8.0], "detectron2": [4.0]}
    case = Case("inference", "", "ms", {**times, "detectron2, bf16": [1.0]})
    assert case.ratio("fcos_d2") == 0.5
    assert case.ratio("fcos_d2, bf16") == 0.25
    assert case.ratio("torchvision") is None
    assert case.ratio("detectron2, bf16") is None
    alone = Case("settings", "", "ms", {"fcos_d2": [2.0], "fcos_d2, folded": [1.0]})
    assert alone.ratio("fcos_d2, folded") == 0.5
    assert alone.ratio("fcos_d2") is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--setting", "name", "MODEL.FCOS.NORM"], "--setting name takes pairs KEY VALUE"),
        (["--setting", "two", "MODEL.FCOS.COMPLIE", "True"], "COMPLIE"),
        (["--setting", "three", "MODEL.FCOS.COMPILE", "sideways"], "--setting three takes pairs"),
        (["--threads", "0"], "--threads must be at least 1"),
        (["--repeats", "0"], "at least 1"),
        (["--only", "nothing"], "invalid choice"),
    ],
)
def test_flags_that_make_no_sense_are_refused(flags, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["--quick", "--output-dir", str(tmp_path), *flags])
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())  # before anything is measured


def test_others_are_left_out_where_they_would_take_too_long(monkeypatch):
    monkeypatch.setattr(contest, "_MOST_SECONDS", 0)
    first, second = GROUPS["targets"](Bench(QUICK, "cpu", repeats=1))
    assert first.skipped == {}
    assert list(second.values) == ["fcos_d2"]
    assert second.skipped.keys() == {"detectron2", "torchvision"}
    assert "more than 0 s" in second.skipped["detectron2"]


def test_others_are_left_out_where_the_memory_would_not_do(monkeypatch):
    monkeypatch.setattr(contest, "available_memory", lambda device: 1e9)
    bench = Bench(QUICK, "cpu", repeats=7)
    assert bench.reason_to_skip(1.0, 0.4e9) is None
    assert "half the memory (2 GB)" in bench.reason_to_skip(1.0, 2e9)


def test_quick_run_has_all_groups_and_makes_a_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cases, "_IMPORTS", {"fcos_d2": "json"})
    setting = ["--setting", "top 50", "MODEL.FCOS.TOPK_CANDIDATES_TEST", "50"]
    benchmark.main(["--quick", "--repeats", "1", "--output-dir", str(tmp_path), *setting])
    results = json.loads((tmp_path / "results-cpu.json").read_text())
    found = benchmark.load_cases(results)
    groups = {group: [x for x in found if x.group.startswith(group)] for group in GROUPS}
    assert [group for group, members in groups.items() if not members] == []
    for case in found:
        least = 0 if case.unit == "calls" else 1e-9
        assert all(x >= least for values in case.values.values() for x in values), case.name
        if case.group.startswith("settings"):
            assert list(case.values) == ["fcos_d2", "fcos_d2, top 50"]
        elif case.group == "loader":
            assert "1 worker" in case.values
        elif case.group == "mapper":
            assert {"fcos_d2", "detectron2"} <= case.values.keys()
        elif case.group not in ("imports", "targets_memory"):
            assert {"fcos_d2", "detectron2", "torchvision"} <= case.values.keys()
    assert "detectron2, bf16   left out" in capsys.readouterr().out

    performance_page.main(
        ["--output-dir", str(tmp_path), "--page", str(tmp_path / "docs" / "performance.md")]
    )
    text = (tmp_path / "docs" / "performance.md").read_text()
    assert "these figures say nothing" in text
    assert "| missed |" not in text
    assert re.search(r"images/s: \d+ worker\(s\) at", text)
    for name in PLOTS:
        assert f"](images/performance/cpu_{name}.png)" in text
        assert (tmp_path / "docs" / "images" / "performance" / f"cpu_{name}.png").is_file()


def test_what_is_there_of_other_groups_is_kept(tmp_path, monkeypatch):
    def group(name, value):
        return lambda bench: iter([Case(name, "x", "ms", {"fcos_d2": [value]})])

    path = tmp_path / "results-cpu.json"
    for groups in ({"a": group("a", 1.0), "b": group("b", 2.0)}, {"b": group("b", 3.0)}):
        monkeypatch.setattr(benchmark, "GROUPS", groups)
        benchmark.measure(Bench(QUICK, "cpu", repeats=1), list(groups), path)
    found = benchmark.load_cases(json.loads(path.read_text()))
    assert {case.group: case.median_of("fcos_d2") for case in found} == {"a": 1.0, "b": 3.0}
    benchmark.measure(Bench(FULL, "cpu", repeats=1), ["b"], path)  # other sizes: nothing is kept
    assert len(json.loads(path.read_text())["cases"]) == 1


def test_what_was_measured_before_a_failure_is_kept(tmp_path, monkeypatch):
    def failing(bench):
        raise MemoryError

    def working(bench):
        yield Case("a", "x", "ms", {"fcos_d2": [1.0]})

    monkeypatch.setattr(benchmark, "GROUPS", {"a": working, "b": failing})
    path = tmp_path / "results-cpu.json"
    with pytest.raises(MemoryError):
        benchmark.measure(Bench(QUICK, "cpu", repeats=1), ["a", "b"], path)
    assert [case.group for case in benchmark.load_cases(json.loads(path.read_text()))] == ["a"]


def test_the_load_is_at_least_that_of_what_is_kept(tmp_path, monkeypatch):
    def group(bench):
        yield Case("a", "x", "ms", {"fcos_d2": [1.0]})

    path, bench = tmp_path / "results-cpu.json", Bench(QUICK, "cpu", repeats=1)
    monkeypatch.setattr(benchmark, "GROUPS", {"a": group, "b": lambda _: iter(())})
    for share, name, expected in ((0.9, "a", 0.9), (0.1, "b", 0.9), (0.2, "a", 0.2)):
        monkeypatch.setattr(machine.LoadOfOthers, "share", lambda _, share=share: share)
        benchmark.measure(bench, [name], path)
        assert json.loads(path.read_text())["load_of_others"] == expected


def test_casts_of_autocast_are_no_convolution():
    conv, image = torch.nn.Conv2d(16, 16, 3), torch.randn(1, 16, 32, 32)
    with torch.profiler.profile() as profiler, torch.autocast("cpu", torch.bfloat16):
        conv(image)
    places = {}
    for event in profiler.events():
        places.setdefault(event.name, set()).add(profile_stages._place(event))
    assert places["aten::_to_copy"] == {("other", "rest")}
    assert ("other", "rest") in places["aten::copy_"]
    assert places["aten::conv2d"] == {("other", "convolution")}


def test_profile_has_each_stage_with_its_backward_pass(tmp_path, capsys):
    profile_stages.main(["--quick", "--output-dir", str(tmp_path)])
    profiles = json.loads((tmp_path / "profile-cpu.json").read_text())["profiles"]
    passes = {
        name: {(row["stage"], row["pass"]) for row in found["rows"]}
        for name, found in profiles.items()
    }
    network = {(stage, "forward") for stage in profile_stages.NETWORK_STAGES}
    assert passes["inference"] >= network | {("selection", "forward"), ("NMS", "forward")}
    assert not any(direction == "backward" for _, direction in passes["inference"])
    backward = {(stage, "backward") for stage in (*profile_stages.NETWORK_STAGES, "losses")}
    training = network | backward | {("targets", "forward"), ("optimizer", "forward")}
    assert passes["training step"] >= training
    for found in profiles.values():
        for row in found["rows"]:
            kinds = row["convolution"] + row["norm"] + row["rest"]
            assert kinds == pytest.approx(row["cpu_ms"], abs=1e-6)
            if row["stage"] not in (*profile_stages.NETWORK_STAGES, "other"):
                assert row["convolution"] == row["norm"] == 0
        assert 0 < found["shares"]["outside backbone, neck and head"] < 1


def test_profiling_leaves_the_model_as_it_was(adapters, batch):
    model = adapters[0].model
    before = model.assigner, dict(vars(model.head)), model.losses.forward
    with profile_stages.profiled_stages(model):
        assert model.assigner is not before[0]
    assert before == (model.assigner, dict(vars(model.head)), model.losses.forward)


def unmeasured_cases(monkeypatch):
    """The cases that have demands, at full size but for the network, none of them run."""

    def without_time(self, group, name, works, **extra):
        return Case(group, name, "ms", {key: [1.0] for key in works}, **extra)

    def without_peaks(self, group, name, works, **extra):
        return Case(group, name, "MB", {key: [1.0] for key in works}, **extra)

    monkeypatch.setattr(Bench, "time", without_time)
    monkeypatch.setattr(Bench, "peaks", without_peaks)
    bench = Bench(dataclasses.replace(FULL, opts=QUICK.opts), "cpu", repeats=7)
    groups = {demand.group for demand in DEMANDS}
    return [case for group in groups for case in GROUPS[group](bench)]


def test_each_demand_is_about_a_case_that_is_measured(monkeypatch):
    found = unmeasured_cases(monkeypatch)
    for demand in DEMANDS:
        case = find_case(found, demand)
        assert case is not None, demand
        assert demand.contestant in case.values


@pytest.mark.slow
def test_exactness_is_printed_of_any_device(capsys):
    from gpu import check

    assert check.main(["--device", "cpu", "--quick"]) == 0
    targets, model = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"targets: 0 of \d{5,} locations differ", targets)
    assert model.startswith("R-50: losses 0.0e+00, gradients 0.0e+00, boxes 0.0e+00 px")
