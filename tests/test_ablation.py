"""The ablation of benchmarks/: its variants can be trained, its page says what was measured."""

import json

import ablation
import pytest
import torch
from ablation_page import write_page
from ablation_variants import SEEDS_OF_FULL_RECIPE, VARIANTS
from detectron2.modeling import build_model
from tiny import predictions_of, random_input

from fcos_d2 import Levels

VARIANT_OF_NAME = {variant.name: variant for variant in VARIANTS}


@pytest.mark.parametrize("name", [n for n in VARIANT_OF_NAME if n != "timm_resnet10t"])
def test_each_variant_trains_a_step(name, tmp_path):
    cfg = ablation.config_of(VARIANT_OF_NAME[name], 1, tmp_path, [])
    losses = build_model(cfg)([random_input(3, 64, 64)])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())


def test_the_quality_of_regressed_boxes_is_their_own_centerness():
    class Head(torch.nn.Module):
        def forward(self, features):
            ltrb = torch.tensor([1.0, 2.0, 4.0, 2.0]).view(1, 4, 1, 1)
            return predictions_of(([torch.zeros(1, 6, 1, 1)], [ltrb], None))

    (quality,) = ablation.QualityOfRegressedBoxes(Head(), Levels([8]))([]).quality_logits
    assert quality.shape == (1, 1, 1, 1)
    assert quality.sigmoid().item() == pytest.approx(0.5)  # sqrt(1/4 * 2/2)


def made_up_results(ap_of_name):
    seeds = len(SEEDS_OF_FULL_RECIPE)
    return {
        variant.name: [
            {"AP": ap_of_name.get(variant.name, 50.0) + seed, "AP50": 80.0, "APs": 40.0}
            | {"parameters": 1_700_000, "images": 4, "iterations": 7}
            for seed in (range(seeds) if variant.is_full_recipe else [0])
        ]
        for variant in VARIANTS
    }


def test_the_page_has_each_variant_and_names_what_is_far_from_the_full_recipe(tmp_path):
    page = tmp_path / "ablation.md"
    write_page(page, made_up_results({"bn_head": 30.0, "gn": 47.0}))
    text = page.read_text()
    for variant in VARIANTS:
        assert f"| {variant.title} | " in text
    assert "AP 51.0 +- 1.0" in text
    assert "| GN in the head | 47.0 | 80.0 | 40.0 | -4.0 | 1.70 | 37.1 |" in text
    assert "7 iterations of 4 images" in " ".join(text.split())
    (far,) = [line for line in text.splitlines() if line.startswith("More than 10%")]
    assert far.endswith("full recipe: BN in the head, one a level. Why: no reason known.")


def test_what_was_trained_before_is_not_trained_again(tmp_path, capsys):
    variant = VARIANT_OF_NAME["bn_head"]
    (tmp_path / "bn_head_seed1.json").write_text(json.dumps({"AP": 12.0}))
    config = ablation.config_of(variant, 1, tmp_path / "bn_head_seed1", []).dump()
    (tmp_path / "bn_head_seed1.yaml").write_text(config)
    assert ablation.run(variant, 1, tmp_path, []) == {"AP": 12.0}
    assert capsys.readouterr().out == ""
    with pytest.raises(SystemExit, match=r"bn_head_seed1.yaml is of another config than this run"):
        ablation.run(variant, 1, tmp_path, ["SOLVER.MAX_ITER", "5"])


def test_variants_that_differ_in_evaluation_alone_share_their_weights():
    nms, before = VARIANT_OF_NAME["nms"], VARIANT_OF_NAME["p4_for_top_level"]
    assert nms.training_opts == before.training_opts
    assert nms.opts != before.opts
