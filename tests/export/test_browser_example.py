"""The page of examples/browser: its reader of metadata, and detection in a browser."""

import http.server
import json
import re
import shutil
import subprocess
import threading
from functools import partial

import pytest
from commands import REPOSITORY
from export_models import NAMES, export, noise, selective_detector, to_array
from PIL import Image

pytest.importorskip("onnxscript")
pytest.importorskip("timm")

PAGE = REPOSITORY / "examples" / "browser"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
READ = """
import { readFileSync } from "node:fs";
import { readMetadata } from "./metadata.js";
console.log(JSON.stringify(readMetadata(readFileSync("model.onnx"))));
"""

CHOOSE = """
import puppeteer from "puppeteer-core";
const [executablePath, address] = process.argv.slice(2);
const browser = await puppeteer.launch({ executablePath, args: ["--no-sandbox"] });
const page = await browser.newPage();
const wait = words => page.waitForFunction(
  text => document.getElementById("status").textContent.includes(text), { timeout: 60000 }, words);
const report = async () => console.log(await page.$eval("#status", x => x.textContent));
const choose = async name => (await page.$("#file")).uploadFile(name);
await page.goto(address);
await wait("Choose");
await report();
await choose("photo.png");
await wait("ms.");
await report();
await choose("choose.mjs");
await wait("cannot");
await report();
await browser.close();
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Copy the page, and add a model of any image size and an image."""
    folder = tmp_path_factory.mktemp("browser")
    for file in PAGE.iterdir():
        if file.is_file():
            shutil.copy(file, folder)
    export(selective_detector(), folder / "model.onnx")
    Image.fromarray(to_array(noise(192, 256))).save(folder / "photo.png")
    return folder


@pytest.mark.skipif(not shutil.which("node"), reason="no node")
def test_metadata_are_read_from_the_file(folder):
    (folder / "read.mjs").write_text(READ)
    (folder / "package.json").write_text('{"type": "module"}')
    process = subprocess.run(
        ["node", "read.mjs"], cwd=folder, capture_output=True, text=True, timeout=60
    )
    metadata = json.loads(process.stdout)
    assert metadata["class_names"] == NAMES
    assert metadata["input_shape"] == [None, 3, None, None]


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    """A handler that prints nothing."""

    def log_message(self, *args):
        pass


@pytest.mark.slow
@pytest.mark.skipif(not (CHROMIUM and shutil.which("npm")), reason="no Chromium or no npm")
def test_the_page_detects_the_objects_of_an_image_that_is_chosen(folder):
    packages = ("onnxruntime-web@1.30", "puppeteer-core@24")
    install = subprocess.run(
        ["npm", "install", "--no-save", *packages], cwd=folder, capture_output=True, timeout=300
    )
    if install.returncode:
        pytest.skip("the packages cannot be installed")
    (folder / "choose.mjs").write_text(CHOOSE)
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(_QuietHandler, directory=folder)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/index.html"
    try:
        process = subprocess.run(
            ["node", "choose.mjs", CHROMIUM, address],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=200,
        )
    finally:
        server.shutdown()
        server.server_close()
    assert process.returncode == 0, process.stderr
    before, after, damaged = process.stdout.splitlines()
    assert before == "Choose an image."
    assert re.fullmatch(r"\d\d+ objects\. 256 x 192 pixels in \d+ ms\.", after)
    assert damaged.startswith("This image cannot be used")
