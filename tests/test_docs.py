"""The documentation: its quotes, numbers and links are right, its figures can be redrawn."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from config_page import config_page, read_keys
from PIL import Image

from fcos_d2 import config
from fcos_d2.arguments import get

REPOSITORY = Path(__file__).resolve().parent.parent
DOCS = REPOSITORY / "docs"
TOP_PAGES = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "configs/README.md")]
PAGES = sorted([*TOP_PAGES, *DOCS.rglob("*.md")])
ALGORITHM = (DOCS / "algorithm.md").read_text()
NUMBERS = json.loads((DOCS / "images" / "figures.json").read_text())


def find_quotes(text):
    """(file, lines) of each fenced block that names a file of the package."""
    blocks = re.findall(r'^```python title="([^"]+)"\n(.*?)^```$', text, re.MULTILINE | re.DOTALL)
    return [(file, quote.rstrip("\n")) for file, quote in blocks]


def is_quoted_right(file, quote):
    return f"\n{quote}\n" in f"\n{(REPOSITORY / file).read_text()}\n"


def find_sources(text):
    """(file, quote, function, anchor) of each quote: the last API link in the lines before it."""
    sources = []
    for match in re.finditer(
        r'^```python title="([^"]+)"\n(.*?)^```$', text, re.MULTILINE | re.DOTALL
    ):
        before = text[: match.start()].rstrip("\n").rsplit("\n\n", 1)[-1]
        links = re.findall(r"\[`([\w.]+)`\]\(api/modeling\.md#([\w.]+)\)", before)
        sources.append((match[1], match[2].rstrip("\n"), *(links[-1] if links else ("", ""))))
    return sources


def read_function(file, qualified_name):
    """Source lines of a function or method of the package."""
    source = (REPOSITORY / file).read_text()
    node = ast.parse(source)
    for name in qualified_name.split("."):
        node = next(x for x in node.body if getattr(x, "name", None) == name)
    return "\n".join(source.splitlines()[node.lineno - 1 : node.end_lineno])


def find_broken_links(page, text):
    """Relative targets of links and pictures that name no file, or no heading of the page."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`\n]*`", "", text)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    anchors = {heading_anchor(x) for x in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
    broken = []
    for target in targets:
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        if not (page.parent / path).exists() or (not path and anchor not in anchors):
            broken.append(target)
    return broken


def heading_anchor(heading):
    return re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-")


def test_quoted_lines_are_in_their_files():
    quotes = find_quotes(ALGORITHM)
    assert len(quotes) > 15
    assert len(quotes) == ALGORITHM.count('```python title="')
    assert [quote for quote in quotes if not is_quoted_right(*quote)] == []


def test_a_quote_that_is_no_longer_true_is_found():
    ((file, quote),) = find_quotes(
        '```python title="fcos_d2/modeling/losses/quality.py"\n    return near / far\n```\n'
    )
    assert not is_quoted_right(file, quote)


def test_each_quote_links_to_the_function_it_is_from():
    for file, quote, function, anchor in find_sources(ALGORITHM):
        assert function, quote
        assert f"\n{quote}\n" in f"{read_function(file, function)}\n", function
        module = file.removesuffix(".py").replace("/", ".")
        assert anchor.startswith(module), function
        # A private function has no entry: the link is to what it belongs to.
        is_public = not any(name.startswith("_") for name in function.split("."))
        assert not is_public or f"{module}.{function}".startswith(anchor), function


def test_a_quote_without_a_link_is_found():
    block = '```python title="a.py"\nx\n```\n'
    ((*_, function, anchor),) = find_sources(f"[`f`](api/modeling.md#m.f)\n\nText:\n\n{block}")
    assert (function, anchor) == ("", "")
    ((*_, function, anchor),) = find_sources(f"Text ([`f`](api/modeling.md#m.f)):\n\n{block}")
    assert (function, anchor) == ("f", "m.f")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_relative_links_and_pictures_exist(page):
    assert find_broken_links(page, page.read_text()) == []


def test_broken_links_are_found():
    text = "# A heading\n[a](#a-heading) [b](#b) ![c](images/no.png) [d](index.md) [e](http://e)"
    assert find_broken_links(DOCS / "page.md", text) == ["#b", "images/no.png"]


def test_the_page_of_config_keys_is_up_to_date():
    page = config_page(Path(config.__file__).read_text())
    assert (DOCS / "config.md").read_text() == page, "run python docs/config_page.py"


def test_every_config_key_has_a_comment_of_its_own_and_its_default():
    keys = [key for key in read_keys(Path(config.__file__).read_text()) if key.name]
    cfg = config.new_cfg()
    for key in keys:
        assert len(key.comment.partition(" Elsewhere: ")[0]) > 10, key
        assert ast.literal_eval(key.default) == get(cfg, f"{key.section}.{key.name}")
    sections = {key.section for key in keys}
    assert len(keys) == sum(len(get(cfg, section)) for section in sections)
    assert sections == {"MODEL.FCOS", "MODEL.TIMM", "MODEL.BIFPN", "FCOS_TRAIN"}


def test_every_figure_is_shown_and_small():
    shown = set(re.findall(r"\]\(images/(\w+\.png)\)", ALGORITHM))
    drawn = {path.name for path in (DOCS / "images").glob("*.png")}
    assert shown == drawn - {"demo.png", "own_data.png"}
    assert all((DOCS / "images" / name).stat().st_size < 180_000 for name in drawn)


def table_rows():
    """The rows of algorithm.md that figures.json is the source of."""
    for dataset in ("coco_val2017", "shapes_train"):
        for rule, row in NUMBERS[dataset]["rules"].items():
            shares = row["ambiguous"], row["ambiguous_classes"], row["recall"]
            yield f"| {rule} | " + " | ".join(f"{x:.2f}" for x in shares) + " |"
            if "centre sampling" not in rule:
                name, larger = dataset.replace("coco_", "COCO "), row["recall_if_the_larger_won"]
                yield f"| {name}, {rule} | {row['recall']:.2f} | {larger:.2f} |"
    for name, label in (
        ("class_score_alone", "class score alone"),
        ("with_centerness", "class score and centre-ness"),
    ):
        values = (NUMBERS["trained"]["at_test"][name][key] for key in ("AP", "AP50", "AP75"))
        yield f"| {label} | " + " | ".join(f"{x:.1f}" for x in values) + " |"


def sentences():
    """The numbers in running text."""
    coco, shapes, trained = (NUMBERS[x] for x in ("coco_val2017", "shapes_train", "trained"))
    floor = NUMBERS["floor"]
    floor = dict(zip(floor["sizes"], floor["centre sampling, 1.5"], strict=True))
    whole, sampled = (
        [data["rules"][f"{n} levels{tail}"] for data, n in ((coco, 5), (shapes, 4))]
        for tail in ("", ", centre sampling")
    )
    per_box = [x["positives_per_box"] for pair in zip(sampled, whole, strict=True) for x in pair]
    fine, middle, coarse, none = shapes["medians_in_pixels"]
    assert none is None
    yield f"{coco['boxes']:,} boxes without crowds"
    yield f"at strides 4, 8 and 16: {fine:g}, {middle:g} and {coarse:g} pixels"
    yield f"answer with {fine:g} pixels on one level and with {coarse:g} on another"
    yield "the scales {:.2f}, {:.2f}, {:.2f} and {:.2f}".format(*trained["scales"])
    yield "floor is {:.2f}, {:.2f} and {:.2f}".format(*(floor[size] for size in (4, 6, 8)))
    yield "it is {center_sampling:.3f}, and {whole_box:.3f} for the whole box".format(
        **shapes["floor"]
    )
    yield "{:.1f} instead of {:.1f} for each box of COCO, {:.1f} instead of {:.1f} on the".format(
        *per_box
    )
    yield f"ambiguous ({sampled[0]['ambiguous']:.2f} instead of {whole[0]['ambiguous']:.2f} %"
    yield f"recall {sampled[0]['recall']:.2f} instead of {whole[0]['recall']:.2f} %"
    compared, gaining, losing = (trained[f"images_{x}"] for x in ("compared", "gaining", "losing"))
    yield f"Of {compared} images with objects, {gaining} have more good boxes among the best"
    yield f"with centre-ness, and {losing} have fewer"


def test_numbers_are_those_of_the_script():
    text = " ".join(ALGORITHM.split())
    assert [row for row in table_rows() if row not in ALGORITHM.splitlines()] == []
    assert [sentence for sentence in sentences() if sentence not in text] == []
    assert 0.52 < min(NUMBERS["floor"]["whole box"]) < max(NUMBERS["floor"]["whole box"]) < 0.55


def test_figures_are_drawn(tmp_path, few_shapes, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(DOCS))
    import make_figures

    # Fewer places of the boxes: the figures look the same.
    monkeypatch.setattr("figures.targets._PHASES", 2)
    make_figures.main(["--output", str(tmp_path)])
    needs = {"--coco": "ambiguity_coco.png", "--weights": "centerness_at_test.png"}
    printed = capsys.readouterr().out
    assert all(
        f"{name} is left as it was: it needs {flag}" in printed for flag, name in needs.items()
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
    assert [x for x in find_sources(ALGORITHM) if x[3] not in entries] == []
