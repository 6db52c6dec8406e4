# SPDX-License-Identifier: Apache-2.0
"""The report in a real browser, from a file:// path: it filters and sorts, a case opens, map and volumes are drawn,
nothing is asked of any network. Skipped where there is no Chromium or no Playwright.
"""

import dataclasses
import os
import re
import shutil
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bundle.batch.page import Facts, write_page
from bundle.batch.run import run_batch
from bundle.cli import main
from bundle.errors import EXIT_CODES
from bundle.io.nifti import write_map
from bundle.synthesis.sample import synthetic_head
from tests.test_batch import QuickJob, plan

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
QUIET = ("--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync")
SOFTWARE = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A batch of four scans and a broken one; the second highest comes with its volumes."""
    folder = tmp_path_factory.mktemp("report")
    rng = np.random.RandomState(0)
    for number in range(4):
        scan = rng.rand(40, 44, 12) * 5 + 2 * number
        scan[10:20, 12:24, 4:8] += 20
        write_map(folder / "in" / f"s{number}.nii.gz", scan, np.diag([2, 2, 4, 1]))
    (folder / "in" / "broken.nii.gz").write_bytes(b"nothing")
    run_batch(plan(folder / "in"), QuickJob(), folder / "out", viewed=["s2"])
    return folder / "out" / "report.html"


@pytest.fixture
def page(report):
    """The open page, with every request and every error on its console."""
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, *SOFTWARE])
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.requests, page.errors = [], []
        page.on("request", lambda request: page.requests.append(request.url))
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("console", lambda said: page.errors.append(said.text) if said.type == "error" else None)
        page.goto(report.as_uri())
        yield page
        browser.close()


def decoded(page, layer):
    """Whether the picture behind a layer is one that the browser can show."""
    background = layer.evaluate("element => getComputedStyle(element).backgroundImage")
    script = """url => new Promise(done => {
        const image = Object.assign(new Image(), { onload: () => done(image.width), onerror: () => done(0), src: url });
    })"""
    return page.evaluate(script, background.removeprefix('url("').removesuffix('")')) > 100


def shown(locator):
    """Pixels (rows, columns, 3) of an element as it is drawn."""
    return np.asarray(Image.open(BytesIO(locator.screenshot())).convert("RGB"), dtype=float)


def names(page):
    return page.locator("#gallery .card").evaluate_all("cards => cards.map(card => card.dataset.name)")


def coloured(locator):
    """Share of pixels that are not grey: where the map is."""
    return (np.ptp(shown(locator), axis=2) > 30).mean()


def test_pictures_beyond_the_first_are_files_beside_the_page(report, tmp_path, monkeypatch):
    """So that a batch of thousands has a report of a size that a browser opens."""
    monkeypatch.setattr("bundle.batch.page.EMBEDDED", 1)
    run_batch(plan(report.parent.parent / "in"), QuickJob(), tmp_path / "out")
    linked = tmp_path / "out" / "report.html"
    assert linked.stat().st_size < report.stat().st_size / 2
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = browser.new_page()
        page.goto(linked.as_uri())
        for name in ("s3", "s0"):
            assert decoded(page, page.locator(f".card[data-name={name}] .grey"))
        browser.close()


def test_the_gallery_shows_every_scan_with_its_map_the_highest_score_first(page):
    assert names(page) == ["s3", "s2", "s1", "s0", "broken"]
    first = page.locator(".card[data-name=s3]")
    assert decoded(page, first.locator(".grey"))
    assert coloured(first.locator(".slice")) > 0.02
    assert "Export or download it again" in page.locator(".card[data-name=broken]").inner_text()


@pytest.mark.parametrize(
    ("control", "value", "left"),
    [
        ("search", "S1", ["s1"]),
        ("state", "failed", ["broken"]),
        ("least", "27.5", ["s3", "s2"]),
        ("order", "name", ["broken", "s0", "s1", "s2", "s3"]),
    ],
)
def test_filters_and_order(page, control, value, left):
    field = page.locator(f"#{control}")
    if field.evaluate("element => element.tagName") == "SELECT":
        field.select_option(value)
    else:
        field.fill(value)
    assert names(page) == left
    assert page.locator("#count").inner_text() == f"{len(left)} of 5"


def test_the_table_sorts(page):
    page.locator("#shape").select_option("table")
    first = page.locator("#cases tbody tr td:first-child")
    assert first.all_inner_texts() == ["s3", "s2", "s1", "s0", "broken"]
    page.locator("#cases th", has_text="case score").click()
    assert first.all_inner_texts() == ["broken", "s0", "s1", "s2", "s3"]
    page.locator("#cases th", has_text="scan").click()
    assert first.all_inner_texts() == ["broken", "s0", "s1", "s2", "s3"]


def test_a_case_opens_and_keys_go_from_case_to_case(page):
    assert not page.locator("#case").is_visible()
    page.locator(".card[data-name=s3]").click()
    assert page.locator("#case-name").inner_text() == "s3"
    assert page.locator("#slices figure").count() == 4
    assert page.locator("#findings tbody tr").count() >= 1
    page.keyboard.press("ArrowRight")
    assert page.locator("#case-name").inner_text() == "s2"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert page.locator("#case-name").inner_text() == "s3"
    page.keyboard.press("Escape")
    assert not page.locator("#case").is_visible()
    page.goto(page.url.partition("#")[0] + "#s1")
    page.reload()
    assert page.locator("#case-name").inner_text() == "s1"


def test_threshold_and_opacity_change_the_map(page):
    page.locator(".card[data-name=s0]").click()
    first = page.locator("#slices .slice").first
    everywhere = coloured(first)
    page.locator("#threshold").fill("6")
    high = coloured(first)
    assert 0 < high < 0.8 * everywhere
    page.locator("#opacity").fill("0")
    assert coloured(first) == 0
    page.locator("h2#case-name").click()
    page.keyboard.press(" ")
    assert coloured(first) == pytest.approx(high, abs=0.02)


def test_case_scores_stand_beside_healthy_ones(page):
    assert page.locator("#histogram rect.batch").count() == 20
    assert page.locator("#histogram path.healthy").get_attribute("d")
    assert "green: 3 scans of healthy people" in " ".join(page.inner_text("#scores").split())


def test_the_failure_and_the_calibration_are_told(page):
    assert "broken" in page.inner_text("#failed")
    assert "Export or download it again" in page.inner_text("#failed")
    assert page.locator("#calibration tbody tr").count() == 4
    assert "the 80th percentile of a bootstrap over these patients" in " ".join(page.inner_text("body").split())


def test_the_volumes_are_drawn_and_nothing_is_asked_of_a_network(page):
    page.locator(".card[data-name=s2]").click()
    page.locator("#show-volumes").click()
    page.locator("canvas[data-ready]").first.wait_for(timeout=60_000)
    page.wait_for_timeout(500)
    drawn = shown(page.locator("canvas"))
    assert drawn.std() > 10, "the canvas is blank"
    assert np.ptp(drawn, axis=2).max() > 60, "no colour of the map on it"
    outside = [url for url in page.requests if not url.startswith(("file:", "data:", "blob:"))]
    assert not outside
    assert len([url for url in page.requests if url.startswith("file:")]) == 1
    assert not page.errors


def test_ten_thousand_stay_quick(tmp_path):
    """Planned, written and opened: cards are made as one scrolls."""
    scan, name = np.random.RandomState(0).rand(20, 22, 4) * 5, "s0"
    write_map(tmp_path / "in" / f"{name}.nii.gz", scan, np.diag([2, 2, 4, 1]))
    (case,) = plan(tmp_path / "in")
    (record,) = run_batch([case], QuickJob(), tmp_path / "out")
    cases = [dataclasses.replace(case, name=f"case-{number}") for number in range(10_000)]
    records = [dataclasses.replace(record, name=f"case-{n}", case_score=1 + n / 1000) for n in range(10_000)]
    started = time.perf_counter()
    path = write_page(tmp_path / "out", cases, records, Facts.of(QuickJob()))
    assert time.perf_counter() - started < 60
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = browser.new_page()
        started = time.perf_counter()
        page.goto(path.as_uri())
        page.locator(".card").first.wait_for()
        opened = time.perf_counter() - started
        made = page.locator(".card").count()
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        page.locator(".card").nth(made).wait_for()  # the page forbids eval, by which a function would be waited for
        page.locator("#search").fill("case-77")
        assert page.locator("#count").inner_text() == "111 of 10000"
        browser.close()
    print(f"10 000 cases: {path.stat().st_size / 2**20:.1f} MiB, open after {opened:.1f} s, {made} cards made")
    assert opened < 10
    assert made < 500


def test_a_case_is_printed_on_one_page(page):
    """Words, slices and findings; nothing to click, and none of the other scans."""
    page.locator(".card").first.click()
    page.wait_for_timeout(500)
    page.emulate_media(media="print")
    for shown in ("#case-name", "#case-words", "#case-facts", ".notice", "#slices figure"):
        assert page.locator(shown).first.is_visible(), shown
    for hidden in ("#gallery", "#controls", "#close", ".sliders", "#failed", "#scores"):
        assert not page.locator(hidden).first.is_visible(), hidden
    printed = page.pdf(format="A4", print_background=True)
    assert printed.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) == 1


def test_pictures_of_the_docs(tmp_path):
    """The gallery and a case, of drawn heads; with FLIPMAP_SCREENSHOTS=docs they are written there."""
    written = os.environ.get("FLIPMAP_SCREENSHOTS")
    for number in range(7 if written else 2):
        scan, _, affine = synthetic_head((128, 152, 16), (1.5, 1.5, 7.5), seed=number)
        write_map(tmp_path / "in" / f"sub-{number:02d}_FLAIR.nii.gz", scan, affine, np.int16)
    (tmp_path / "in" / "sub-07_FLAIR.nii.gz").write_bytes(b"cut off")
    assert main(["run", str(tmp_path / "in"), str(tmp_path / "out"), "-q"]) == EXIT_CODES["some case failed"]
    folder = Path(written or tmp_path)
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = browser.new_page(viewport={"width": 1100, "height": 760})
        page.goto((tmp_path / "out" / "report.html").as_uri())
        page.wait_for_timeout(500)
        page.screenshot(path=folder / "report_gallery.png")
        assert coloured(page.locator(".card .slice").first) > 0.005
        page.locator(".card").first.click()
        page.wait_for_timeout(500)
        page.screenshot(path=folder / "report_case.png")
        browser.close()
    assert all((folder / f"report_{name}.png").stat().st_size > 20_000 for name in ("gallery", "case"))
