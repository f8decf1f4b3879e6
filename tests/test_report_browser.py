"""`report.html` in a browser: it asks for nothing, sorts, zooms, fits, and whatever a run is called stays text."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import browser
from helpers.browser import Browser
from test_report import APART, GOOD, HEALTHY, HOSTILE, RISING, hostile, run

from ebm_cli.commands import pages
from ebm_cli.page.made import page
from ebm_cli.record.run import png

pytestmark = [
    pytest.mark.long,
    pytest.mark.browser,
    pytest.mark.skipif(browser.FOUND is None, reason="there is no chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    started = Browser(tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, Path]:
    """Pages of one run, of a multirun of three, and of a run all of whose words are scripts."""
    path = tmp_path_factory.mktemp("pages")
    one = run(path / "one", said=(*GOOD, ("WARNING", APART)), curve=RISING * 20)
    (one / "samples").mkdir()
    (one / "samples" / "samples.png").write_bytes(png(np.zeros((300, 1400, 3), np.uint8)))
    pages.write_run(one)
    for number, (rate, height) in enumerate([(0.1, -20.0), (0.2, -18.5), (1.0, -19.5)]):
        metrics = {**HEALTHY, "exact/log_likelihood": height}
        run(path / "sweep" / str(number), metrics, GOOD, curve=RISING, config={"optimizer": {"lr": rate}})
    jobs = [{"number": i, "directory": str(i), "overrides": [], "differs": {}} for i in range(4)]
    (path / "sweep" / "sweep.json").write_text(json.dumps({"format": 1, "arguments": [], "common": {}, "jobs": jobs}))
    pages.write_multirun(path / "sweep")
    (path / "hostile.html").write_text(page([hostile(path / "<script>alert(1)<" / "script>")], HOSTILE))
    return {"one": one / "report.html", "sweep": path / "sweep" / "report.html", "hostile": path / "hostile.html"}


@pytest.mark.parametrize("name", ["one", "sweep", "hostile"])
def test_it_opens_without_a_request_or_a_complaint(name, chromium, places):
    chromium.show(places[name])
    asked = [each["request"]["url"] for each in chromium.of("Network.requestWillBeSent")]
    assert {url for url in asked if not url.startswith("data:")} == {places[name].as_uri()}
    assert not chromium.of("Runtime.exceptionThrown")
    assert not [each for each in chromium.of("Log.entryAdded") if each["entry"]["level"] in ("error", "warning")]
    assert chromium.value("document.querySelectorAll('.chart canvas').length") > 0


def test_what_a_hostile_run_says_never_runs(chromium, places):
    chromium.show(places["hostile"])
    chromium.value("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert not chromium.of("Page.javascriptDialogOpening")
    assert chromium.value("document.querySelector('h1').textContent") == HOSTILE
    assert chromium.value("document.title") == HOSTILE


def test_no_script_could_run_even_if_it_stood_there(tmp_path, chromium, places):
    """The policy of the page is what stops it, not the escaping alone."""
    text = places["one"].read_text().replace("<h1>", "<script>document.title = 'ran'</script><h1 onclick='x()'>")
    (tmp_path / "page.html").write_text(text)
    chromium.show(tmp_path / "page.html")
    assert chromium.value("document.title") == "one"
    assert chromium.of("Log.entryAdded")


def column(chromium: Browser, number: int) -> list[str]:
    script = f"[...document.querySelectorAll('.sortable tbody tr')].map((r) => r.cells[{number}].textContent.trim())"
    return chromium.value(script)


def test_the_table_sorts_by_what_is_clicked_on(chromium, places):
    chromium.show(places["sweep"])
    headings = chromium.value("[...document.querySelectorAll('.sortable th')].map((h) => h.textContent.trim())")
    lr, likelihood = headings.index("lr"), headings.index("log-likelihood")
    click = "document.querySelectorAll('.sortable th button')[{}].click()"
    chromium.value(click.format(likelihood))
    assert column(chromium, lr) == ["0.2", "1", "0.1", ""]
    chromium.value(click.format(likelihood))
    assert column(chromium, lr) == ["0.1", "1", "0.2", ""], "what is not begun stays last"
    chromium.value(click.format(lr))
    assert column(chromium, lr)[:3] == ["1", "0.2", "0.1"]


def test_a_chart_zooms_and_goes_back(chromium, places):
    chromium.show(places["one"])
    seen = "document.querySelector('.chart').dataset.range.split(' ').map(Number)"
    before = chromium.value(seen)
    over = "document.querySelector('.chart .u-over')"
    box = f"{over}.scrollIntoView(), {over}.getBoundingClientRect().toJSON()"
    place = chromium.value(box)
    middle = place["y"] + place["height"] / 2
    chromium.drag((place["x"] + place["width"] * 0.25, middle), (place["x"] + place["width"] * 0.5, middle))
    low, high = chromium.value(seen)
    whole = before[1] - before[0]
    assert (high - low) / whole == pytest.approx(0.25, abs=0.02)
    assert (low - before[0]) / whole == pytest.approx(0.25, abs=0.02)
    chromium.value("document.querySelector('.chart .tools button').click()")
    assert chromium.value(seen) == before


def test_the_pointer_shows_numbers(chromium, places):
    chromium.show(places["one"])
    place = chromium.value("document.querySelector('.chart .u-over').getBoundingClientRect().toJSON()")
    chromium.call("Input.dispatchMouseEvent", type="mouseMoved", x=place["x"] + 50, y=place["y"] + 50)
    chromium.value("new Promise((done) => setTimeout(() => done(1), 200))")
    values = "document.querySelector('.chart').querySelectorAll('.u-value')"
    shown = chromium.value(f"[...{values}].map((v) => v.textContent)")
    assert all(text not in ("", "–") for text in shown)


@pytest.mark.parametrize("width", [400, 1600])
@pytest.mark.parametrize("name", ["one", "sweep"])
def test_it_fits_the_window(width, name, chromium, places):
    chromium.show(places[name], width)
    chromium.value("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    chromium.value("new Promise((done) => setTimeout(() => done(1), 200))")
    assert chromium.value("document.documentElement.scrollWidth") <= width
    drawn = "[...document.querySelectorAll('.chart canvas, img')]"
    wide = f"{drawn}.filter((each) => each.getBoundingClientRect().right > innerWidth).length"
    assert chromium.value(wide) == 0


_BRIGHTNESS = """(() => {
  const canvas = document.querySelector(".chart canvas"), { width, height } = canvas;
  const all = canvas.getContext("2d").getImageData(0, 0, width, height).data, found = [];
  for (let i = 0; i < all.length; i += 4) if (all[i + 3] > 200) found.push((all[i] + all[i + 1] + all[i + 2]) / 765);
  return found.reduce((sum, each) => sum + each, 0) / found.length;
})()"""
"""From 0 to 1, of what is drawn on the first chart."""


@pytest.mark.parametrize("dark", [False, True])
def test_dark_and_light(dark, chromium, places):
    chromium.show(places["one"], dark=dark)
    light = "(c) => { const [r, g, b] = c.match(/[0-9.]+/g).map(Number); return (r + g + b) / 765; }"
    style = "getComputedStyle(document.body)"
    paper, ink = (chromium.value(f"({light})({style}.{name})") for name in ("backgroundColor", "color"))
    assert (paper < 0.2, ink > 0.8) == (dark, dark)
    drawn = chromium.value(_BRIGHTNESS)
    assert abs(drawn - paper) > 0.05, "lines and words of the charts are seen on the page"
