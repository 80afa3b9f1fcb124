"""What the benchmarks measure, and the tables that they write."""

import json
import os
import platform
import time
from argparse import Namespace

import ablation
import benchmark
import beyond
import gpu
import gpu_models
import learning
import measuring
import numpy as np
import page
import pytest
import speed
import torch
from detectron2.engine import DefaultTrainer
from detectron2.modeling import build_model
from measuring import Work, count_host_waits, count_operations, peak_memory
from page import Case
from peers import Torchvision
from tiny import predictions_of, random_input
from workloads import FULL, QUICK

from fcos_d2.modeling.levels import Levels

VARIANTS = {x["title"]: x for rows in ablation.read_variants().values() for x in rows}


def test_calls_are_interleaved_and_shuffled_and_preparing_is_not_timed(monkeypatch):
    monkeypatch.setattr(measuring, "_SHORT_ROUND", 0)
    calls = []
    works = {x: Work(calls.append, prepare=lambda x=x: time.sleep(0.01) or x) for x in "abc"}
    times = measuring.time_interleaved(works, repeats=12, device="cpu")
    assert {name: len(x) for name, x in times.items()} == {"a": 12, "b": 12, "c": 12}
    rounds = [tuple(calls[i : i + 3]) for i in range(3, len(calls), 3)]
    assert all(sorted(x) == ["a", "b", "c"] for x in rounds)
    assert len(set(rounds)) > 1
    assert min(times["a"]) < 5


def test_there_are_more_rounds_if_they_are_short(monkeypatch):
    monkeypatch.setattr(measuring, "_SHORT_ROUND", 50)
    short, long = Work(lambda _: None), Work(lambda _: time.sleep(0.06))
    for works, rounds in (({"a": short, "b": short}, 6), ({"a": short, "b": long}, 2)):
        times = measuring.time_interleaved(works, repeats=2, device="cpu")
        assert {len(x) for x in times.values()} == {rounds}


def test_peak_memory_is_what_tensors_take_at_the_same_time():
    in_turn = Work(lambda _: [torch.ones(250_000).sum() for _ in range(3)])
    together = Work(lambda _: [torch.ones(250_000) for _ in range(3)])
    assert peak_memory(in_turn, "cpu") == pytest.approx(1, rel=0.01)
    assert peak_memory(together, "cpu") == pytest.approx(3, rel=0.01)


def test_operations_and_waits_are_counted_in_the_backward_pass_too():
    x = torch.ones(3, 2, requires_grad=True)
    forward_and_back = Work(lambda _: (x * 2).view(2, 3).T.sum().backward())
    # Forward a product and a sum, backward ones and a product. The others are views.
    assert count_operations(forward_and_back) == 4
    assert count_host_waits(forward_and_back) == 0
    # The places of the mask, and the sum.
    assert count_host_waits(Work(lambda _: x[x > 0].sum().item())) == 2
    # A product of each row, whose backward pass reads how many zeros there are.
    assert count_host_waits(Work(lambda _: x.prod(dim=1).sum().backward())) == 1


def test_ratio_is_to_the_best_other_in_the_same_round_or_to_the_defaults():
    times = {"fcos_d2": [2.0, 3.0], "fcos_d2, bf16": [1.0, 1.0], "torchvision": [8.0, 9.0]}
    case = Case("", "", "ms", {**times, "detectron2": [4.0, 4.0], "detectron2, bf16": [1.0, 1.0]})
    assert case.ratios("fcos_d2") == [0.5, 0.75]
    assert case.ratios("fcos_d2, bf16") == [0.25, 0.25]
    assert case.ratios("torchvision") == case.ratios("detectron2, bf16") == []
    alone = Case("", "", "ms", {"fcos_d2": [2.0], "fcos_d2, folded": [1.0]})
    assert alone.ratios("fcos_d2, folded") == [0.5]
    assert alone.ratios("fcos_d2") == []
    rounds = Case("", "", "ms", {"fcos_d2": [1.0, 2.0, 3.0, 4.0, 9.0], "torchvision": [10.0] * 5})
    assert rounds.format_ratio("fcos_d2") == "0.30 (0.20 to 0.40)"


@pytest.fixture
def new_page(tmp_path):
    copied = tmp_path / "performance.md"
    copied.write_text(page.PAGE.read_text())
    return copied


def test_quick_run_measures_all_detectors_and_makes_a_page(tmp_path, new_page):
    folder = ["--output-dir", str(tmp_path)]
    benchmark.main(["speed", "--quick", "--repeats", "1", *folder])
    results = json.loads((tmp_path / "results-cpu.json").read_text())
    assert torch.__version__ in results["machine"]
    assert platform.node() not in results["machine"]
    groups = results["groups"]
    assert list(groups) == list(speed.GROUPS)
    cases = [Case(**case) for group in groups.values() for case in group["cases"]]
    for case in cases:
        least = 0 if case.unit == "count" else 1e-9
        assert all(x >= least for values in case.values.values() for x in values), case
        if case.table in ("losses", "operations", "waits", "selection", "inference", "training"):
            assert {"fcos_d2", "detectron2", "torchvision"} <= case.values.keys()
    before = new_page.read_text()
    benchmark.main(["page", "--page", str(new_page), *folder])
    text = new_page.read_text()
    ours = next(case for case in cases if case.table == "operations")
    assert f"| fcos_d2 | {ours.median('fcos_d2'):.0f} | " in text
    assert text.count("\n### ") == len({case.table for case in cases})
    learned = before.partition("<!-- begin learning -->")[2]
    assert text.endswith(learned)  # what was not measured stays


def test_groups_that_are_not_measured_again_are_kept(tmp_path, monkeypatch):
    path, bench = tmp_path / "results-cpu.json", speed.Bench(QUICK, "cpu", repeats=1)

    def measure_first_of(groups, bench=bench):
        cases = {key: Case(key, "", "ms", {"fcos_d2": [x]}) for key, x in groups.items()}
        makers = {key: lambda _, case=case: iter([case]) for key, case in cases.items()}
        monkeypatch.setattr(speed, "GROUPS", makers)
        with pytest.raises(KeyError):
            speed.measure(bench, [*groups, "missing"], path)
        kept = json.loads(path.read_text())["groups"].items()
        return {key: x["cases"][0]["values"]["fcos_d2"] for key, x in kept}

    assert measure_first_of({"a": 1.0, "b": 2.0}) == {"a": [1.0], "b": [2.0]}
    assert measure_first_of({"a": 3.0}) == {"a": [3.0], "b": [2.0]}
    assert measure_first_of({"a": 4.0}, speed.Bench(FULL, "cpu", repeats=1)) == {"a": [4.0]}


@pytest.mark.slow
def test_agreement_is_printed_for_any_device(capsys):
    benchmark.main(["gpu", "--device", "cpu", "--quick"])
    lines = capsys.readouterr().out.splitlines()
    targets, model, graphs, autocast, plain, graphed, rate = lines
    assert targets.startswith("targets: 0 of ")
    assert "'losses': 0.0, 'gradients': 0.0, 'boxes': 0.0" in model
    for text in (graphs, autocast):  # on a CPU, nothing is recorded
        assert "graphs: losses 0.0e+00, weights 0.0e+00" in text
        assert "; 0 sizes recorded" in text
    assert plain.startswith("fcos_d2 ")
    assert graphed.startswith("fcos_d2, graphs ")
    assert "images/s" in rate


@pytest.mark.slow
def test_models_are_measured_in_all_modes_and_precisions(monkeypatch):
    monkeypatch.setattr(gpu_models, "MODES", dict(list(gpu_models.MODES.items())[:2]))
    monkeypatch.setattr(gpu_models, "_build_compiled", lambda cfg: Torchvision.build(cfg))
    cases = list(gpu_models.measure_models(speed.Bench(QUICK, "cpu", repeats=1)))
    assert len(cases) == 15  # five batches in three precisions
    for case in cases:
        assert {"fcos_d2", "fcos_d2, graphs", "torchvision"} <= case.values.keys()
        assert case.ratios("fcos_d2, graphs")
    assert "torchvision, compiled" in cases[0].values


def test_the_sizes_of_a_multi_scale_training():
    sizes = gpu.draw_sizes(300, images=2)
    assert len(sizes) == 300
    assert 30 < len(set(sizes)) < 150  # of which some occur often
    assert all(640 <= max(x) <= 1344 and x[0] % 32 == x[1] % 32 == 0 for x in sizes)


def test_each_model_of_the_recipes_is_compared_once():
    recipes = list(gpu.find_recipes())
    assert len(recipes) == len(dict(recipes)) > 10
    assert ("fcos_R_50_FPN_1x.yaml", "MODEL.TIMM.PRETRAINED False") in recipes


def test_the_schedule_is_stretched_to_the_same_time(tmp_path):
    times = {"fcos_d2": 0.1, "slow": 0.2, "fast": 0.05, "equal": 0.101}
    counts = [learning.iterations_in_same_time(times, name, 900) for name in times]
    assert counts == [900, 450, 1800, 900]
    opts = ["SOLVER.MAX_ITER", 900, "SOLVER.STEPS", (600, 800)]
    cfg = learning.make_cfg(tmp_path, 1, opts, iterations=450)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS) == (450, (300, 400))


@pytest.mark.parametrize("name", list(learning.TRAINERS))
def test_each_detector_of_the_learning_race_learns_and_detects(name, tmp_path):
    model = learning.TRAINERS[name].build_model(learning.make_cfg(tmp_path, 1, []))
    inputs = [random_input(3, 64, 64)]
    with learning.EventStorage():
        losses = model(inputs)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(x.grad is not None for x in model.parameters() if x.requires_grad)
    with torch.no_grad():
        (result,) = model.eval()(inputs)
    assert result["instances"].has("pred_classes")


def test_what_was_trained_is_not_trained_again(tmp_path, monkeypatch, new_page, few_shapes):
    trained = []

    def train(trainer):
        trained.append(trainer.cfg.SOLVER.MAX_ITER)
        trainer._last_eval_results = {"bbox": {"AP": float(trainer.cfg.SEED), "AP50": float("nan")}}

    monkeypatch.setattr(DefaultTrainer, "train", train)
    monkeypatch.setattr(learning, "_TIMED_STEPS", 1)
    # It logs the environment, which takes a second for each run.
    monkeypatch.setattr(
        learning, "default_setup", lambda cfg, _: os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    )
    opts = ["SOLVER.MAX_ITER", 20, "SOLVER.IMS_PER_BATCH", 1, "DATALOADER.NUM_WORKERS", 0]
    args = Namespace(output_dir=tmp_path, page=new_page, seeds=[1, 2], opts=opts)
    learning.run(args)
    assert trained.count(20) >= 8  # four detectors, two seeds
    assert "| 1.5 +- 0.7 |" in new_page.read_text()
    count = len(trained)
    learning.run(args)
    assert len(trained) == count
    learning.run(Namespace(**{**vars(args), "opts": [*opts, "SOLVER.BASE_LR", 0.5]}))
    assert len(trained) >= count + 8


@pytest.mark.parametrize("title", [x for x in VARIANTS if "timm" not in x])
def test_each_variant_of_the_ablation_trains_a_step(title, tmp_path):
    cfg = ablation.make_variant_cfg(VARIANTS[title], 1, tmp_path, [])
    losses = build_model(cfg)([random_input(3, 64, 64)])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())


def test_the_quality_of_regressed_boxes_is_their_own_centerness():
    ltrb = torch.tensor([1.0, 2.0, 4.0, 2.0]).view(1, 4, 1, 1)
    predictions = predictions_of(([torch.zeros(1, 6, 1, 1)], [ltrb], None))
    (quality,) = ablation.replace_quality(Levels([8]), predictions).quality_logits
    assert quality.sigmoid().item() == pytest.approx(0.5)  # sqrt(1/4 * 2/2)


def test_the_ablation_writes_a_row_for_each_variant(tmp_path, monkeypatch):
    def train_once(trainer_class, cfg):
        ap = 30.0 if cfg.MODEL.FCOS.NORM == "BN" else 50.0 + cfg.SEED
        return {"AP": ap, "AP50": 80.0, "APs": 40.0, "parameters": 1_700_000}

    monkeypatch.setattr(ablation, "train_once", train_once)
    copied = tmp_path / "ablation.md"
    copied.write_text(ablation.PAGE.read_text())
    ablation.run(Namespace(output_dir=tmp_path, page=copied, opts=[]))
    text = copied.read_text()
    assert "AP 52.0 +- 1.0" in text
    assert "| BN in the head, one for each level | 30.0 | 80.0 | 40.0 | -22.0 | 1.70 | - |" in text
    assert all(f"| {title} | " in text for title in VARIANTS)


def test_the_page_of_two_stage_detectors_has_a_row_for_each_model(
    tmp_path, monkeypatch, few_shapes
):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(few_shapes))

    def train_and_evaluate(cfg):
        recall = 60.0 if cfg.MODEL.PROPOSAL_GENERATOR.NAME == "RPN" else 70.0 + cfg.SEED
        recalls = {f"box_proposals/{x}": recall for x in beyond._RECALLS}
        areas = {f"bbox/{x}": 75.0 for x in ("AP", "AP50", "APs", "APm", "APl")}
        return {**recalls, **areas, "segm/AP": 60.0, "keypoints/AP": 57.0}

    def evaluate(cfg):
        ap = 75.0 + len(cfg.TEST.AUG.MIN_SIZES) + cfg.TEST.AUG.FLIP
        return {f"bbox_TTA/{x}": ap for x in ("AP", "AP50", "APs", "APm", "APl")}

    monkeypatch.setattr(beyond, "train_and_evaluate", train_and_evaluate)
    monkeypatch.setattr(beyond, "evaluate", evaluate)
    monkeypatch.setattr(beyond, "_draw", lambda *_: np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "images").mkdir()
    copied = tmp_path / "beyond.md"
    copied.write_text(beyond.PAGE.read_text())
    beyond.run(Namespace(output_dir=tmp_path, page=copied, seeds=[1, 2], opts=[]))
    text = copied.read_text()
    for row in (
        "| FCOS | 71.5 +- 0.7 | ",
        "| detectron2's RPN | 60.0 +- 0.0 | ",
        "| Mask R-CNN | 75.0 | 60.0 | 0.80 |",
        "| Keypoint R-CNN | 75.0 | 57.0 | 0.76 |",
        "| none | 75.0 | ",
        "| flips | 77.0 | ",
        "| 3 scales and flips | 79.0 | ",
    ):
        assert row in text, row
    assert (tmp_path / "images" / "beyond_segm.png").is_file()
