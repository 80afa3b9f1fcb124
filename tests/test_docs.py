"""The documentation: the site builds, links and numbers are right, figures can be redrawn."""

import ast
import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import logo
import pytest
import torch
import yaml
from config_page import config_page, read_keys
from detectron2.modeling import build_backbone
from PIL import Image

from fcos_d2 import config
from fcos_d2.arguments import get

REPOSITORY = Path(__file__).resolve().parent.parent
DOCS = REPOSITORY / "docs"
TOP_PAGES = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "configs/README.md")]
PAGES = sorted([*TOP_PAGES, *DOCS.rglob("*.md")])
ALGORITHM = (DOCS / "algorithm.md").read_text()
NUMBERS = json.loads((DOCS / "images" / "figures.json").read_text())


def find_broken_links(page, text):
    """Find relative targets of links and pictures without a file or, on the page, a heading."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`\n]*`", "", text)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    anchors = {heading_anchor(x) for x in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
    broken = []
    for target in targets:
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        if not (page.parent / path).exists() or (not path and anchor not in anchors):
            broken.append(target)
    return broken


def read_python_blocks(page):
    """Return the blocks of Python code of a page."""
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def heading_anchor(heading):
    return re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_relative_links_and_pictures_exist(page):
    assert find_broken_links(page, page.read_text()) == []


def test_broken_links_are_found():
    text = (
        "# A heading\n[a](#a-heading) [b](#b) ![c](images/no.png) [d](index.md) [e](http://e)"
        '<img src="images/none.png"> <a href="index.md">'
    )
    assert find_broken_links(DOCS / "page.md", text) == ["#b", "images/no.png", "images/none.png"]


def test_the_menu_has_each_page_once():
    def pages_of(entry):
        if isinstance(entry, str):
            return [entry]
        parts = entry.values() if isinstance(entry, dict) else entry
        return [page for part in parts for page in pages_of(part)]

    pages = pages_of(yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())["nav"])
    assert sorted(pages) == sorted(str(x.relative_to(DOCS)) for x in DOCS.rglob("*.md"))


def test_the_page_of_config_keys_is_up_to_date():
    page = config_page(Path(config.__file__).read_text())
    assert (DOCS / "config.md").read_text() == page, "run python docs/config_page.py"


def test_every_config_key_is_on_the_page_with_its_default():
    keys = [key for key in read_keys(Path(config.__file__).read_text()) if key.name]
    cfg = config.new_cfg()
    for key in keys:
        assert ast.literal_eval(key.default) == get(cfg, f"{key.section}.{key.name}")
    sections = {key.section for key in keys}
    assert len(keys) == sum(len(get(cfg, section)) for section in sections)
    assert sections == {"MODEL.FCOS", "MODEL.TIMM", "MODEL.BIFPN", "FCOS_TRAIN"}


def test_the_example_of_plain_constructors_builds_a_model():
    blocks = read_python_blocks(DOCS / "extending.md")
    (example,) = [block for block in blocks if "model = " in block]
    cfg = config.new_cfg()
    cfg.merge_from_file(config.get_config_file("fcos_R_50_FPN_1x.yaml"))
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    names = {"backbone": build_backbone(cfg)}
    exec(example, names)
    assert names["model"].num_classes == 80


def test_every_figure_is_shown_and_small():
    shown = set(re.findall(r"\]\(images/(\w+\.png)\)", ALGORITHM))
    drawn = {path.name for path in (DOCS / "images").glob("*.png")}
    elsewhere = {"demo.png", "own_data.png", "beyond_segm.png", "beyond_keypoints.png"}
    assert shown == drawn - elsewhere
    assert all((DOCS / "images" / name).stat().st_size < 180_000 for name in drawn)


def test_the_logo_is_what_the_script_draws():
    assert (DOCS / "images" / "logo.svg").read_text() == logo.draw_logo()


def table_rows():
    """Yield the rows of algorithm.md whose numbers come from figures.json."""
    for dataset in ("coco_val2017", "shapes_train"):
        for rule, row in NUMBERS[dataset]["rules"].items():
            shares = row["ambiguous"], row["ambiguous_classes"], row["recall"]
            yield f"| {rule} | " + " | ".join(f"{x:.2f}" for x in shares) + " |"
            if "center sampling" not in rule:
                name, larger = dataset.replace("coco_", "COCO "), row["recall_if_the_larger_won"]
                yield f"| {name}, {rule} | {row['recall']:.2f} | {larger:.2f} |"
    for name, label in (
        ("class_score_only", "class score only"),
        ("with_centerness", "class score and center-ness"),
    ):
        values = (NUMBERS["trained"]["at_test"][name][key] for key in ("AP", "AP50", "AP75"))
        yield f"| {label} | " + " | ".join(f"{x:.1f}" for x in values) + " |"


def sentences():
    """Yield the parts of sentences whose numbers come from figures.json."""
    coco, shapes, trained = (NUMBERS[x] for x in ("coco_val2017", "shapes_train", "trained"))
    floor = NUMBERS["floor"]
    floor = dict(zip(floor["sizes"], floor["center sampling, 1.5"], strict=True))
    whole, sampled = (
        [data["rules"][f"{n} levels{tail}"] for data, n in ((coco, 5), (shapes, 4))]
        for tail in ("", ", center sampling")
    )
    per_box = [x["positives_per_box"] for pair in zip(sampled, whole, strict=True) for x in pair]
    fine, middle, coarse, none = shapes["medians_in_pixels"]
    assert none is None
    yield f"{coco['boxes']:,} boxes that are not crowd regions"
    yield f"at strides 4, 8 and 16 are {fine:g}, {middle:g} and {coarse:g} pixels"
    yield f"at stride 4 are longer than {fine:g} pixels"
    yield f"at stride 16 are longer than {coarse:g} pixels"
    yield "the scales {:.2f}, {:.2f}, {:.2f} and {:.2f}".format(*trained["scales"])
    yield "lower bound is {:.2f}, {:.2f} and {:.2f}".format(*(floor[size] for size in (4, 6, 8)))
    yield "it is {center_sampling:.3f} with center sampling and {whole_box:.3f} for the".format(
        **shapes["floor"]
    )
    yield (
        "{:.1f} instead of {:.1f} for each box of COCO, and {:.1f} instead of {:.1f} for each box"
    ).format(*per_box)
    yield f"ambiguous ({sampled[0]['ambiguous']:.2f} instead of {whole[0]['ambiguous']:.2f} %"
    yield f"recall {sampled[0]['recall']:.2f} instead of {whole[0]['recall']:.2f} %"
    compared, gaining, losing = (trained[f"images_{x}"] for x in ("compared", "gaining", "losing"))
    yield f"adds correct boxes in {gaining} of {compared} images with objects"
    yield f"removes some in {losing}."


def test_numbers_are_those_of_the_script():
    text = " ".join(ALGORITHM.split())
    assert [row for row in table_rows() if row not in ALGORITHM.splitlines()] == []
    assert [sentence for sentence in sentences() if sentence not in text] == []
    assert 0.52 < min(NUMBERS["floor"]["whole box"]) < max(NUMBERS["floor"]["whole box"]) < 0.55


def test_figures_are_drawn(tmp_path, few_shapes, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(DOCS))
    import make_figures

    # Fewer positions of the boxes: the figures look the same.
    monkeypatch.setattr("figures.targets._PHASES", 2)
    make_figures.main(["--output", str(tmp_path)])
    needs = {"--coco": "ambiguity_coco.png", "--weights": "centerness_at_test.png"}
    printed = capsys.readouterr().out
    assert all(
        f"{name} was not redrawn: it needs {flag}" in printed for flag, name in needs.items()
    )
    shown = set(re.findall(r"\]\(images/(\w+\.png)\)", ALGORITHM))
    assert {path.name for path in tmp_path.glob("*.png")} == shown - set(needs.values())
    for path in tmp_path.glob("*.png"):
        picture = Image.open(path).convert("RGB")
        assert picture.size[0] > 800
        assert len(picture.getcolors(picture.size[0] * picture.size[1])) > 20, path.name
    assert json.loads((tmp_path / "figures.json").read_text())["shapes_train"]["images"] == 24


def test_the_site_builds_strictly(tmp_path):
    pytest.importorskip("mkdocs")
    process = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=REPOSITORY,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    entries = set(re.findall(r'id="([\w.]+)"', (tmp_path / "api" / "modeling.html").read_text()))
    assert "fcos_d2.modeling.losses.box.box_loss" in entries
    quoting = [page for page in DOCS.glob("*.md") if find_quotes(page)]
    assert {"algorithm.md", "export.md"} <= {page.name for page in quoting}
    for page in quoting:
        text = (tmp_path / page.name).with_suffix(".html").read_text()
        assert "--8<--" not in text
        blocks = [
            html.unescape(re.sub(r"<[^>]+>", "", x))
            for x in re.findall(r"<pre>.*?</pre>", text, re.DOTALL)
        ]
        for quote in find_quotes(page):
            assert any(read_section(*quote) in block for block in blocks), quote


def find_quotes(page):
    """Find the file and the name of each section of code that a page includes."""
    return re.findall(r'^--8<-- "(.+):(\w+)"$', page.read_text(), re.MULTILINE)


def test_every_marked_section_of_code_is_quoted_once():
    marked = [
        (str(file.relative_to(REPOSITORY)), name)
        for folder in ("fcos_d2", "examples")
        for file in (REPOSITORY / folder).rglob("*.py")
        for name in re.findall(r"--8<-- \[start:(\w+)\]", file.read_text())
    ]
    assert len(marked) >= 5
    assert sorted(quote for page in DOCS.glob("*.md") for quote in find_quotes(page)) == sorted(
        marked
    )


def read_section(file, name):
    """Read the code between the markers of a section."""
    text = (REPOSITORY / file).read_text()
    pattern = rf"# --8<-- \[start:{name}\]\n(.*?)\n *# --8<-- \[end:{name}\]"
    return re.search(pattern, text, re.DOTALL)[1]


@pytest.mark.parametrize("page", [TOP_PAGES[0], DOCS / "extending.md"], ids=lambda x: x.name)
def test_the_example_of_a_prediction_works_with_the_files_of_a_training(page, trained_own_data):
    data = trained_own_data
    (data.folder / "new_images").mkdir()
    Image.open(data.images / "1.png").save("new_images/1.jpg")
    data.output.rename("trained")
    data.output.mkdir()
    Path("trained").rename("output/own_data")
    names = {}
    exec(read_python_blocks(page)[0], names)
    assert names["cfg"].MODEL.FCOS.NUM_CLASSES == 2
    assert names["predictor"].model.num_classes == 2
    trained = torch.load("output/own_data/model_final.pth", weights_only=True)["model"]
    loaded = names["predictor"].model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in trained.items())
    expected = names["fcos_d2"].Predictor(names["cfg"])("new_images/1.jpg")
    assert torch.equal(names["outputs"]["instances"].scores, expected.scores)
