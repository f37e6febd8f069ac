"""The page in a real browser without a network: drawn, responsive, switched by its controls, safe."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import synthetic_results as synthetic

from harness.core.storage import Storage
from harness.report.figures import FIGURES
from harness.report.page import write_report
from harness.sweep import studies

pytestmark = pytest.mark.browser

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SOFTWARE_WEBGL = (
    "--enable-unsafe-swiftshader"  # machines without a GPU; else Chromium warns that it falls back
)
NO_WEBGL = "--disable-3d-apis"
HOSTILE = '</script><img src=x onerror="window.hacked=1"><a href="https://example.org">x</a> %{x} ${y}'
DRAWN = """
const plot = document.querySelector(`#figure-${arguments[0]} .canvas`);
return plot.querySelectorAll('.trace path, .trace image, .heatmaplayer image, .points path, .js-line').length
     + plot.querySelectorAll('canvas').length;
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with both studies and a hostile name in each place where users write."""
    features = synthetic.study_one()
    weights = synthetic.weight_rows(ks=(1, 5, 20), generated=15, n=300)
    for row in features["features"]:
        row["block_name"] = HOSTILE
        row["head"] = HOSTILE if row["head"] == "mlp" else row["head"]
    for row in (*features["features"], *features["generation"]):
        row["regulariser"] = row["regulariser"] and HOSTILE
    features["features"][0] = synthetic.failed(features["features"][0], HOSTILE)
    for row in weights["networks"]:
        row["kind"] = HOSTILE if row["kind"] == "gaussian" else row["kind"]
    storage = Storage(str(tmp_path_factory.mktemp("results")))
    synthetic.write(storage, "study", features, weights)
    return Path(write_report(storage, "study", studies.tables()))


def start(folder: Path, *flags: str) -> Any:
    """Starts a Chromium of its own whose network is off."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, *flags, f"--user-data-dir={folder}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    driver.execute_cdp_cmd("Network.enable", {})
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    return driver


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One browser for all tests; each opens the page anew."""
    driver = start(tmp_path_factory.mktemp("profile"), SOFTWARE_WEBGL)
    yield driver
    driver.quit()


def show(driver: Any, page: Path, width: int = 1280, dark: bool = False) -> None:
    """Opens the page and waits until its figures are drawn."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    prefer(driver, dark)
    driver.get(page.as_uri())
    wait(lambda: driver.execute_script("return document.documentElement.dataset.drawn") == "yes", 90)


def prefer(driver: Any, dark: bool) -> None:
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def wait(done: Callable[[], bool], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, "the page did not come to what was expected"
        time.sleep(0.05)


def complaints(driver: Any) -> list[str]:
    """Returns errors and warnings of the console, without the driver's remarks on software WebGL."""
    return [
        entry["message"] for entry in driver.get_log("browser") if "GL Driver Message" not in entry["message"]
    ]


def plotted(driver: Any, name: str) -> str:
    """Returns a figure's numbers as they are drawn now."""
    script = """
    const traces = document.querySelector(`#figure-${arguments[0]} .canvas`).data;
    return JSON.stringify(traces.map((trace) => [trace.name, trace.x, trace.y, trace.z]));
    """
    return str(driver.execute_script(script, name))


def choose(driver: Any, name: str, choice: str, place: int) -> str:
    """Picks an option as a reader does; returns its value."""
    from selenium.webdriver.support.ui import Select

    select = Select(driver.find_element("css selector", f"#figure-{name} select[data-choice={choice}]"))
    select.select_by_index(place)
    return str(select.first_selected_option.get_attribute("value"))


def options(driver: Any, select: str) -> list[str]:
    """Returns the values that a control offers."""
    script = "return [...document.querySelector(arguments[0]).options].map((option) => option.value)"
    return list(driver.execute_script(script, select))


def test_every_figure_is_drawn_without_a_network(browser: Any, page: Path) -> None:
    browser.get_log("performance")
    show(browser, page)
    for name in FIGURES.names():
        assert browser.execute_script(DRAWN, name) > 0, name
    assert complaints(browser) == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert urls
    assert {url.split(":", 1)[0] for url in urls} <= {"file", "data", "blob"}


def test_no_button_leads_out_of_the_page(browser: Any, page: Path) -> None:
    show(browser, page)
    script = "return [...document.querySelectorAll('.modebar-btn')].map((button) => button.dataset.title)"
    titles = set(browser.execute_script(script))
    assert len(titles) == 4
    assert not any(word in title.lower() for title in titles for word in ("share", "cloud", "edit", "studio"))


def test_policy_is_in_force(browser: Any, page: Path) -> None:
    show(browser, page)
    injected = "const s = document.createElement('script'); s.textContent = 'window.inline = 1';"
    browser.execute_script(f"{injected} document.body.append(s)")
    assert browser.execute_script("return window.inline") is None
    assert "Content Security Policy" in " ".join(complaints(browser))


def test_hostile_names_are_text(browser: Any, page: Path) -> None:
    show(browser, page)
    assert browser.execute_script("return window.hacked") is None
    assert browser.execute_script("return document.querySelectorAll('img, a').length") == 0
    legend = browser.execute_script("return document.querySelector('#figure-over_pool .legend').textContent")
    assert "<img src=x" in legend
    ticks = browser.execute_script("return document.querySelector('#figure-parallel .canvas').textContent")
    assert "</script><img src=x" in ticks  # tick texts of this kind are not read as HTML
    assert "&lt;" not in ticks


@pytest.mark.parametrize(
    ("name", "choice"),
    [
        ("block_by_timestep", "pool"),
        ("block_by_timestep", "head"),
        ("block_by_timestep", "features"),
        ("over_block", "pool"),
        ("over_block", "head"),
        ("over_timestep", "pool"),
        ("over_timestep", "head"),
        ("over_timestep", "axis"),
        ("over_parameters", "data"),
        ("search_regret", "cost"),
        ("ablation", "axis"),
        ("ablation", "subset"),
        ("similarity_cases", "subset"),
        ("maps", "space"),
        ("accuracy_by_similarity", "k"),
        ("accuracy_by_similarity", "subset"),
        ("similarity_range", "subset"),
    ],
)
def test_a_choice_changes_the_figure(browser: Any, page: Path, name: str, choice: str) -> None:
    show(browser, page)
    places = [0, 1]
    if choice == "features":
        heads, kinds = (options(browser, f"#{name}-{which}") for which in ("head", "features"))
        choose(browser, name, "head", heads.index("linear"))  # the untrained network was probed with it alone
        places = [kinds.index(kind) for kind in ("trained", "untrained")]
    choose(browser, name, choice, places[0])
    first = plotted(browser, name)
    choose(browser, name, choice, places[1])
    wait(lambda: plotted(browser, name) != first)
    assert complaints(browser) == []


def test_a_choice_holds_for_the_whole_study(browser: Any, page: Path) -> None:
    show(browser, page)
    before = plotted(browser, "over_timestep")
    values = {choose(browser, "over_block", "pool", place) for place in (0, 1)}
    assert values == {"1", "2"}
    script = "return [...document.querySelectorAll('#features select[data-choice=pool]')].map((s) => s.value)"
    assert set(browser.execute_script(script)) == {"2"}
    other = choose(browser, "over_block", "pool", 0)
    assert set(browser.execute_script(script)) == {other}
    choose(browser, "over_block", "pool", 1)
    now = plotted(browser, "over_timestep")
    choose(browser, "over_block", "pool", 0)
    wait(lambda: plotted(browser, "over_timestep") != now)
    assert before in (now, plotted(browser, "over_timestep"))


def test_published_numbers_can_be_hidden_and_come_back(browser: Any, page: Path) -> None:
    show(browser, page)
    published = (
        "return document.querySelector('#figure-over_pool .canvas').data.some((t) => /^pub/.test(t.name))"
    )
    switch = browser.find_element("css selector", "input[data-published]")
    for shown in (False, True):
        assert browser.execute_script(published) is not shown
        switch.click()
        wait(lambda shown=shown: browser.execute_script(published) is shown)
    assert complaints(browser) == []


def test_a_study_s_switch_leaves_the_other_study_alone(browser: Any, page: Path) -> None:
    show(browser, page)
    published = (
        "return ['over_pool', 'similarity_cases'].map((name) => "
        "document.querySelector(`#figure-${name} .canvas`).data.some((t) => /^pub/.test(t.name)))"
    )
    switch = browser.find_element("css selector", "#weights-published")
    for shown in (False, True):
        switch.click()
        wait(lambda shown=shown: browser.execute_script(published) == [True, shown])


def test_a_control_that_does_not_matter_is_off(browser: Any, page: Path) -> None:
    show(browser, page)
    script = "return [...document.querySelectorAll('#figure-ablation select')].map((s) => [s.id, s.disabled])"
    off: dict[str, list[str]] = {}
    for place, axis in enumerate(options(browser, "#ablation-axis")):
        assert choose(browser, "ablation", "axis", place) == axis
        off[axis] = [name for name, disabled in browser.execute_script(script) if disabled]
    assert off == {"K": ["ablation-k"], "subset of the originals": ["ablation-subset"]}


def test_a_choice_without_rows_says_so(browser: Any, page: Path) -> None:
    show(browser, page)
    kinds = options(browser, "#block_by_timestep-features")
    choose(
        browser, "block_by_timestep", "features", kinds.index("untrained")
    )  # was probed with one head alone
    heads = options(browser, "#block_by_timestep-head")
    choose(browser, "block_by_timestep", "head", heads.index(HOSTILE))
    script = "return document.querySelector('#figure-block_by_timestep p.absent').checkVisibility()"
    wait(lambda: browser.execute_script(script) is True)
    said = browser.find_element("css selector", "#figure-block_by_timestep p.absent").text
    assert said.startswith(
        "No rows for this choice; the nearest with rows is data cub-200, regulariser none, features untrained, pool"
    )
    choose(browser, "block_by_timestep", "head", heads.index("linear"))
    wait(lambda: browser.execute_script(script) is False)
    assert browser.execute_script(DRAWN, "block_by_timestep") > 0


def test_controls_have_labels_and_take_the_keyboard(browser: Any, page: Path) -> None:
    show(browser, page)
    unlabelled = "return [...document.querySelectorAll('select')].filter((s) => !s.labels.length).length"
    assert browser.execute_script(unlabelled) == 0
    select = browser.find_element("css selector", "#over_block-pool")
    before = select.get_attribute("value")
    select.send_keys({"1": "2", "2": "1"}[before])
    assert select.get_attribute("value") != before


@pytest.mark.parametrize("width", [320, 360, 768])
def test_nothing_is_wider_than_the_screen(browser: Any, page: Path, width: int) -> None:
    show(browser, page, width=width)
    sizes = browser.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert sizes[0] <= sizes[1] <= width
    for name in FIGURES.names():
        assert browser.execute_script(DRAWN, name) > 0, name


def test_dark_mode_is_followed_live(browser: Any, page: Path) -> None:
    script = "return document.querySelector('#figure-over_block .main-svg').style.background"
    show(browser, page)
    light = browser.execute_script(script)
    prefer(browser, dark=True)
    wait(lambda: browser.execute_script(script) != light)
    body = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert max(int(part) for part in body.removeprefix("rgb(").removesuffix(")").split(",")) < 60
    prefer(browser, dark=False)
    wait(lambda: browser.execute_script(script) == light)


def test_print_fits_the_paper_and_comes_back(browser: Any, page: Path) -> None:
    show(browser, page, dark=True)
    folded = "return document.querySelectorAll('details:not(.failure):not([open])').length"
    before = browser.execute_script(folded)
    assert before > 0
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    widths = "return [...document.querySelectorAll('.canvas .main-svg')].map((svg) => svg.clientWidth)"
    wait(lambda: max(browser.execute_script(widths)) <= 660)
    assert browser.execute_script("return getComputedStyle(document.body).color") == "rgb(29, 33, 39)"
    assert browser.execute_script(folded) == 0
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    wait(lambda: max(browser.execute_script(widths)) > 660)
    assert browser.execute_script(folded) == before
    assert len(browser.execute_cdp_cmd("Page.printToPDF", {})["data"]) > 50_000


def test_parallel_coordinates_without_webgl(page: Path, tmp_path: Path) -> None:
    driver = start(tmp_path, NO_WEBGL)
    try:
        show(driver, page)
        script = "return document.querySelectorAll('#figure-parallel .js-line').length"
        assert driver.execute_script(script) >= 5
        text = driver.execute_script("return document.querySelector('#figure-parallel .canvas').textContent")
        assert "</script><img src=x" in text
        assert driver.execute_script("return document.querySelectorAll('img, a').length") == 0
        assert complaints(driver) == []
    finally:
        driver.quit()
