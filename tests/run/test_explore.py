"""The page to explore: what is in the file, and what Chromium makes of it (-m browser)."""

import base64
import io
import json
import re
import shutil

import numpy as np
import pytest
from conftest import ROOT
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from run import explore

ABOUT = {"run": "photos_8_8_8", "state": "iteration 2", "seed": 0}


def flat_squares(classes, side=8, channels=1):
    """Return a `draw` of pictures of one shade: that of its class, corners, row and column."""

    def draw(steps):
        for square in range(max(1, classes) * explore.SETS):
            shades = 6 * square + np.add.outer(np.arange(steps), 0.1 * np.arange(steps)) * 10
            shape = (steps * steps, side, side, channels)
            yield np.broadcast_to(shades.reshape(-1, 1, 1, 1), shape).astype(np.uint8)

    return draw


def noise(side, channels):
    rng = np.random.default_rng(0)

    def draw(steps):
        for _ in range(explore.SETS):
            yield rng.integers(0, 256, (steps * steps, side, side, channels), dtype=np.uint8)

    return draw


def data_of(path):
    """Return what a page tells its script, and the sheets as arrays."""
    text = re.search(r'id="data">(.*?)</script>', path.read_text("ascii"), re.S)[1]
    data = json.loads(text)
    contents = [base64.b64decode(sheet.partition(",")[2]) for sheet in data["sheets"]]
    return data, [np.atleast_3d(np.asarray(Image.open(io.BytesIO(c)))) for c in contents]


def test_a_page_has_a_sheet_of_pictures_for_each_class_and_set_of_corners(tmp_path):
    drawn = []
    draw = flat_squares(2)
    explore.write(tmp_path / "p", ABOUT, ["a", "b"], lambda n: drawn.append(n) or draw(n))
    data, sheets = data_of(tmp_path / "p")
    (steps,) = drawn
    assert (data["steps"], data["width"], data["height"]) == (steps, 8, 8) and steps == 16
    assert data["classes"] == ["a", "b"] and len(sheets) == 2 * explore.SETS
    for sheet, pictures in zip(sheets, draw(steps), strict=True):
        for row, column in ((0, 0), (3, 7), (steps - 1, steps - 1)):
            place = np.s_[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            assert_array_equal(sheet[place], pictures[row * steps + column])


def test_ten_classes_have_fewer_steps(tmp_path):
    explore.write(tmp_path / "p", ABOUT, [*"0123456789"], flat_squares(10))
    assert data_of(tmp_path / "p")[0]["steps"] == 11


def test_colours_are_within_some_shades_and_no_picture_shines_into_the_next(tmp_path):
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (256, 1, 1, 3), dtype=np.uint8)
    pictures = np.broadcast_to(colours, (256, 8, 8, 3))
    explore.write(tmp_path / "p", ABOUT, [], lambda steps: [pictures] * explore.SETS)
    sheet = data_of(tmp_path / "p")[1][0].astype(int)
    expected = pictures.reshape(16, 16, 8, 8, 3).swapaxes(1, 2).reshape(sheet.shape)
    assert_allclose(sheet, expected, atol=4)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_page_that_would_be_too_large_has_fewer_steps(tmp_path, monkeypatch, channels):
    monkeypatch.setattr(explore, "LIMIT", 60_000)
    explore.write(tmp_path / "p", ABOUT, [], noise(8, channels))
    assert 2 < data_of(tmp_path / "p")[0]["steps"] < 16
    assert 30_000 < (tmp_path / "p").stat().st_size < 60_000


def test_a_page_has_two_steps_at_least(tmp_path, monkeypatch):
    monkeypatch.setattr(explore, "LIMIT", 100)
    explore.write(tmp_path / "p", ABOUT, [], noise(8, 3))
    assert data_of(tmp_path / "p")[0]["steps"] == 2


def test_the_largest_grey_page_fits():
    most = 10 * explore.SETS * 2 * 2 * (explore.PIXELS**2 * 1.01) * 4 / 3
    assert most < explore.LIMIT


@pytest.mark.parametrize("shape, size", [((160, 256, 1), (80, 128)), ((256, 160, 3), (128, 80))])
def test_large_pictures_are_made_smaller_and_keep_their_shape(shape, size):
    images = np.full((2, *shape), 77, np.uint8)
    small = explore.shrink(images)
    assert small.shape == (2, *size, shape[-1]) and (small == 77).all()
    assert explore.shrink(small) is small


def test_names_are_text_whatever_is_in_them(tmp_path):
    names = ["</script><b>", "\udce4 ä", '"&{{data}}']
    explore.write(tmp_path / "p", ABOUT | {"run": "<!--<script>"}, names, flat_squares(3))
    data, _ = data_of(tmp_path / "p")
    assert data["classes"] == names and data["run"] == "<!--<script>"
    assert (tmp_path / "p").read_text().count("<script") == 2


def test_the_page_asks_for_nothing_outside():
    template = (ROOT / "run/explore.html").read_text("ascii")
    assert "default-src 'none'" in template
    assert not re.search(r"//\w|@import|url\(|fetch\(", template)


def test_the_shipped_page_is_of_this_template_and_small():
    path = ROOT / "samples_mnist/explore.html"
    data, sheets = data_of(path)
    assert path.stat().st_size < 1_500_000
    assert data["run"] == "mnist_64_28_28" and data["classes"] == [*"0123456789"]
    assert [sheet.shape for sheet in sheets] == [(11 * 28, 11 * 28, 1)] * 30
    before, after = (ROOT / "run/explore.html").read_text("ascii").split("{{data}}")
    assert path.read_text("ascii").startswith(before) and path.read_text("ascii").endswith(after)


# In a browser.

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def marked(test):
    """Mark a test that needs a browser."""
    missing = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
    return pytest.mark.browser(missing(test))


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        # A container's root has no sandbox.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """Return a function that opens a page without a network; complaints of it fail the test."""
    complaints, contexts = [], []

    def open_page(path, **options):
        context = chromium.new_context(offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda r: complaints.extend([r.url] * r.url.startswith("http")))
        page.goto(path.as_uri())
        page.wait_for_function("document.getElementById('where').textContent != ''")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints


def shade(page):
    """Return the mean of the picture that is shown."""
    content = base64.b64decode(page.evaluate("picture.toDataURL()").partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).mean()


def place(page, area, x, y):
    box = page.locator(area).bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


@pytest.fixture
def flat(tmp_path):
    """A page of three classes of flat shades: 10 more per row, 1 more per column."""
    explore.write(tmp_path / "page.html", ABOUT, ["ant", "bee", "cow"], flat_squares(3))
    return tmp_path / "page.html"


@marked
@pytest.mark.parametrize("area", ["#square", "#picture"])
def test_the_picture_follows_the_mouse(visit, flat, area):
    page = visit(flat)
    for x, y, expected in ((0.01, 0.01, 0), (0.99, 0.01, 15), (0.01, 0.99, 150), (0.99, 0.99, 165)):
        page.mouse.move(*place(page, area, x, y))
        assert shade(page) == expected
    page.mouse.move(*place(page, area, 0.5, 0.5))  # between four: each has its share
    assert_allclose(shade(page), 82.5, atol=2)
    text = page.locator("#where").text_content()
    assert text == "Class ant: 0.50 across, 0.50 down"


@marked
def test_a_click_holds_the_point(visit, flat):
    page = visit(flat)
    page.mouse.click(*place(page, "#square", 0.01, 0.01))
    page.mouse.move(*place(page, "#square", 0.99, 0.99))
    assert shade(page) == 0
    page.mouse.click(*place(page, "#square", 0.99, 0.99))
    page.mouse.move(*place(page, "#square", 0.01, 0.99))
    assert shade(page) == 150


@marked
def test_buttons_choose_class_and_corners(visit, flat):
    page = visit(flat)
    page.mouse.move(*place(page, "#square", 0.01, 0.01))
    for name, key, expected in (("bee", None, 18), ("C", "Enter", 30), ("cow", " ", 48)):
        button = page.get_by_role("button", name=name, exact=True)
        if key:
            button.focus()
            page.keyboard.press(key)
        else:
            button.dispatch_event("click")
        page.wait_for_function("document.getElementById('sheet').complete")
        page.wait_for_timeout(50)
        assert button.get_attribute("aria-pressed") == "true"
        assert shade(page) == expected
    assert page.locator("[aria-pressed=true]").all_text_contents() == ["cow", "C"]


@marked
def test_arrow_keys_go_from_picture_to_picture(visit, flat):
    page = visit(flat)
    page.mouse.move(*place(page, "#square", 0.01, 0.01))
    for keys, expected in (("Right", 1), ("Down", 11), ("Left", 10), ("Left", 10), ("Up", 0)):
        page.keyboard.press(f"Arrow{keys}")
        assert shade(page) == expected
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    assert shade(page) == 15


@marked
def test_the_keyboard_reaches_everything(visit, flat):
    page = visit(flat)
    reached = []
    for _ in range(7):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.title"))
    assert reached == ["square", "ant", "bee", "cow", "A", "B", "C"]


@marked
def test_the_picture_follows_a_finger(visit, flat):
    page = visit(flat, has_touch=True, viewport={"width": 400, "height": 850})
    for x, y, expected in ((0.99, 0.01, 15), (0.01, 0.99, 150)):
        page.touchscreen.tap(*place(page, "#square", x, y))
        assert shade(page) == expected
    touch = page.context.new_cdp_session(page)
    for kind, points in (
        ("touchStart", [(0.01, 0.01)]),
        ("touchMove", [(0.5, 0.5)]),
        ("touchMove", [(0.99, 0.99)]),
        ("touchEnd", []),
    ):
        where = [dict(zip("xy", place(page, "#square", *p), strict=True)) for p in points]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": where})
    assert shade(page) == 165


@marked
@pytest.mark.parametrize("width", [360, 400, 1400])
@pytest.mark.parametrize("scheme, shade_of_page", [("light", 245), ("dark", 22)])
def test_the_shipped_page_fits_and_moves(visit, width, scheme, shade_of_page):
    path = ROOT / "samples_mnist/explore.html"
    page = visit(path, viewport={"width": width, "height": 900}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert colour == f"rgb({shade_of_page}, {shade_of_page}, {shade_of_page})"
    sizes = page.evaluate("[picture.width, picture.height, picture.clientWidth / innerWidth]")
    assert sizes[:2] == [28, 28] and sizes[2] > 0.35
    assert page.evaluate("getComputedStyle(picture).imageRendering") == "pixelated"
    seen = set()
    for x, y in ((0.1, 0.1), (0.9, 0.1), (0.1, 0.9)):
        page.mouse.move(*place(page, "#square", x, y))
        seen.add(page.evaluate("picture.toDataURL()"))
    assert len(seen) == 3
    assert page.locator("#about").text_content().startswith("Run mnist_64_28_28, ")


@marked
def test_without_labels_there_are_no_class_buttons(visit, tmp_path):
    explore.write(tmp_path / "page.html", ABOUT, [], flat_squares(0, channels=3))
    page = visit(tmp_path / "page.html")
    assert not page.locator("#classes").is_visible()
    assert page.get_by_role("button").all_text_contents() == ["A", "B", "C"]
    assert page.locator("#where").text_content() == "0.50 across, 0.50 down"
