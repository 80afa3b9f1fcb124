"""docs/performance.md says what was measured, and what was not."""

import dataclasses
import json

import performance_page
import profile_stages
import pytest
from contest import Case


def made_up_results(device="cpu", **changes):
    def case(group, name, ours, theirs, unit="ms", **extra):
        values = {"fcos_d2": [ours], "detectron2": [theirs], "torchvision": [2 * theirs]}
        return dataclasses.asdict(Case(group, name, unit, values, **extra))

    step = case("training", "2 images of 512x704", 84.0, 100.0, images=2)
    step["values"]["fcos_d2, bf16"] = [51.0]
    step["skipped"] = {"detectron2, bf16": "it stops"}
    return {
        "machine": {"processor": "an abacus"},
        "device": device,
        "is_quick": False,
        "load_of_others": 0.03,
        "cases": [
            case("targets", "5 boxes an image", 1.0, 20.0, x=5, images=16),
            case("targets", "500 boxes an image", 10.0, 3990.0, x=500, images=16),
            case("targets_memory", "500 boxes, one image", 9.0, 300.0, unit="MB", x=500),
            step,
        ],
        **changes,
    }


def write_made_up(tmp_path, results):
    (tmp_path / f"results-{results['device']}.json").write_text(json.dumps(results))
    page = tmp_path / "performance.md"
    performance_page.write_page(page, tmp_path)
    return page.read_text()


def test_page_says_what_is_met_and_what_is_missed(tmp_path):
    text = write_made_up(tmp_path, made_up_results())
    assert "processor: an abacus. Medians of at least 1 rounds" in text
    assert "| Targets of a batch: 5 boxes an image | <= 1/10 | 1/20 | met |" in text
    assert "| Targets of a batch: 500 boxes an image | <= 1/400 | 1/399 | missed |" in text
    assert "| Targets of a batch: 100 boxes an image | <= 1/100 | - | not measured |" in text
    assert "500 boxes, one image | <= 10 MB | 9 MB | met |" in text
    assert "2 images of 512x704 | <= 0.85 | 0.84 | met |" in text
    assert "2 images of 512x704 (bf16) | <= 0.50 | 0.51 | missed |" in text


def test_what_noise_could_have_brought_about_is_said_so(tmp_path):
    results = made_up_results()
    values = results["cases"][-1]["values"]
    values["detectron2"] = [100.0, 50.0, 100.0, 200.0, 100.0]
    values["torchvision"] = [300.0] * 5
    values["fcos_d2"] = [80.0, 42.0, 84.0, 160.0, 90.0]  # within rounds .80, .84, .84, .80, .90
    values["fcos_d2, bf16"] = [60.0, 20.0, 45.0, 140.0, 51.0]  # .60, .40, .45, .70, .51
    text = write_made_up(tmp_path, results)
    assert "2 images of 512x704 | <= 0.85 | 0.84 (0.80 to 0.84) | met |" in text
    assert "2 images of 512x704 (bf16) | <= 0.50 | 0.51 (0.45 to 0.60) | within noise |" in text
    assert "| ratio of fcos_d2 | 0.84 (0.80 to 0.84) |" in text


def test_page_keeps_what_there_is_no_file_of(tmp_path):
    write_made_up(tmp_path, made_up_results())
    (tmp_path / "results-cpu.json").rename(tmp_path / "aside.json")
    text = write_made_up(tmp_path, made_up_results("cuda"))
    of_cpu, of_gpu = text.split("## On a GPU")
    assert "### What was asked for" in of_cpu
    assert "### Targets of a batch" in of_gpu
    (tmp_path / "results-cuda.json").unlink()
    performance_page.write_page(tmp_path / "performance.md", tmp_path)
    assert (tmp_path / "performance.md").read_text() == text


def test_page_has_tables_rates_growth_and_what_was_left_out(tmp_path):
    text = write_made_up(tmp_path, made_up_results())
    assert "| detectron2 | 20 | 3990 |" in text
    assert "| ratio of fcos_d2 | 1/20 | 1/399 |" in text
    assert "| fcos_d2, bf16 | 51 (39.2 images/s) |" in text
    assert "- Left out of 2 images of 512x704: detectron2, bf16, it stops." in text
    # 10 times the cost for 100 times the boxes; 199.5 times.
    assert "| targets, against boxes | <= 0 | 0.50 | 1.15 | 1.15 | missed |" in text
    assert text.count("Not measured yet.") == 2  # the GPU, and learning


def test_demands_on_times_are_of_the_cpu_alone(tmp_path):
    text = write_made_up(tmp_path, made_up_results("cuda"))
    assert "### Targets of a batch" in text
    assert "What was asked for" not in text


@pytest.mark.parametrize("has_gpu", [False, True])
def test_the_loader_refers_to_figures_of_a_gpu_where_there_are_any(tmp_path, has_gpu):
    results = made_up_results()
    rates = {"1 worker": [30.0], "2 workers": [50.0]}
    loader = Case("loader", "batches of 16", "images/s", rates, images=16)
    results["cases"].append(dataclasses.asdict(loader))
    if has_gpu:
        write_made_up(tmp_path, made_up_results("cuda"))
    text = write_made_up(tmp_path, results)
    assert ('stands under "On a GPU"' in text) == has_gpu
    assert ("batch size was not measured" in text) == (not has_gpu)


def test_page_has_the_profile(tmp_path):
    rows = [
        {"stage": stage, "pass": direction, "cpu_ms": ms, "gpu_ms": 0.0}
        | {"convolution": ms, "norm": 0.0, "rest": 0.0}
        for stage, direction, ms in [("head", "backward", 96.0), ("optimizer", "forward", 4.0)]
    ]
    found = {"wall_ms": 90.0, "rows": rows, "work": "a step"}
    found["shares"] = profile_stages.shares(rows, "cpu")
    profiled = {
        "machine": {"processor": "an abacus"},
        "device": "cpu",
        "is_quick": False,
        "profiles": {"training step": found},
        "targets": {"work": "a crowd", "wall_ms": 2.5, "operations": [["aten::cat", 4.0, 0.5]]},
    }
    (tmp_path / "profile-cpu.json").write_text(json.dumps(profiled))
    (tmp_path / "results-cpu.json").write_text(json.dumps(made_up_results()))
    performance_page.write_page(tmp_path / "page.md", tmp_path)
    text = (tmp_path / "page.md").read_text()
    assert "is left to win: 0.0% of training step (the profile" in text
    assert "| head, backward | 96 | 96.0% | 96.0% | 0.0% | 0.0% |" in text
    assert "4.0% are outside backbone, neck and head, the optimizer's 4.0% included" in text
    assert "Targets, a crowd, again and again with nothing of the others in between: 2.5 ms" in text
    assert "| aten::cat | 4 | 0.5 |" in text
    assert "(asked for: < 3%, missed)" in text
