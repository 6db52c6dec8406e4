# SPDX-License-Identifier: Apache-2.0
"""The report in a real browser, from a file:// path: it sorts, a case opens, the volumes are drawn, nothing is asked of
any network. Skipped where there is no Chromium or no Playwright.
"""

import shutil

import numpy as np
import pytest

from bundle.batch.run import run_batch
from bundle.io.nifti import write_map
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


def test_pictures_beyond_the_first_are_files_beside_the_page(report, tmp_path, monkeypatch):
    """So that a batch of thousands has a report of a size that a browser opens."""
    monkeypatch.setattr("bundle.batch.page.EMBEDDED", 1)
    run_batch(plan(report.parent.parent / "in"), QuickJob(), tmp_path / "out")
    linked = tmp_path / "out" / "report.html"
    assert linked.read_text().count("data:image/png") == 1
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = browser.new_page()
        page.goto(linked.as_uri())
        for name in ("s3", "s0"):
            page.locator("#cases a", has_text=name).click()
            picture = page.locator(f"#case-{name} img")
            picture.wait_for(state="visible")
            picture.scroll_into_view_if_needed()
            page.wait_for_timeout(300)
            assert picture.evaluate("image => image.complete && image.naturalWidth > 100")
        browser.close()


def names(page):
    return page.locator("#cases tbody tr td:first-child").all_inner_texts()


def test_the_list_sorts(page):
    scores = [float(text) for text in page.locator("#cases tbody tr td:nth-child(2)").all_inner_texts()]
    assert len(scores) == 4
    assert scores == sorted(scores, reverse=True)
    page.locator("#cases th", has_text="scan").click()
    first = names(page)
    page.locator("#cases th", has_text="scan").click()
    assert names(page) == first[::-1] != first
    page.locator("#cases th", has_text="case score").click()
    assert sorted(scores) in (
        [float(t) for t in page.locator("#cases tbody tr td:nth-child(2)").all_inner_texts()],
        [float(t) for t in page.locator("#cases tbody tr td:nth-child(2)").all_inner_texts()][::-1],
    )


def test_a_case_opens_with_its_picture(page):
    assert not page.locator("#case-s3 img").is_visible()
    page.locator("#cases a", has_text="s3").click()
    picture = page.locator("#case-s3 img")
    picture.wait_for(state="visible")
    assert picture.evaluate("image => image.complete && image.naturalWidth > 100")
    assert page.locator("#case-s3 table tbody tr").count() >= 1


def test_the_failure_and_the_calibration_are_told(page):
    assert "broken" in page.inner_text("body")
    assert "Export or download it again" in page.inner_text("body")
    assert page.locator("#calibration tbody tr").count() == 4
    assert "the 80th percentile of a bootstrap over these patients" in " ".join(page.inner_text("body").split())


def test_the_volumes_are_drawn_and_nothing_is_asked_of_a_network(page):
    page.locator("#cases a", has_text="s2").click()
    page.locator("button[data-view='case-s2']").click()
    canvas = page.locator("canvas[data-canvas='case-s2']")
    page.wait_for_function("document.querySelector('canvas[data-ready]') !== null", timeout=60_000)
    page.wait_for_timeout(500)
    from io import BytesIO

    from PIL import Image

    shown = np.asarray(Image.open(BytesIO(canvas.screenshot())).convert("RGB"), dtype=float)
    assert shown.std() > 10, "the canvas is blank"
    assert np.ptp(shown, axis=2).max() > 60, "no colour of the map on it"
    assert page.locator("canvas").count() == 1, "only the case that was asked for"
    outside = [url for url in page.requests if not url.startswith(("file:", "data:", "blob:"))]
    assert not outside
    assert len([url for url in page.requests if url.startswith("file:")]) == 1
    assert not page.errors
