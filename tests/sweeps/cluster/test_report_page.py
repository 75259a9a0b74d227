"""report.html in a real browser: it sorts, filters, fetches nothing, and fits a telephone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.sweeps import tools
from tests.sweeps.cluster.needs import need, need_module


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """The report of a sweep with successes, failures and a name that would be markup if it were not escaped."""
    folder = tmp_path_factory.mktemp("report")
    grid = [
        {
            "learning_rate": [0.05, 0.1, 0.2],
            "model_name": ["mlp", "cnn"],
            "title": "<b onclick='x'>&amp;",
            "seed": [0, 1],
        },
        {"behave": ["todo", "no results"], "learning_rate": 0.3, "seed": 0},
    ]
    run = tools.sweep(folder, grid, "--num_workers", "2")
    assert run.returncode == 1, run.stderr
    return folder / "logs" / "report.html"


@pytest.fixture(scope="module")
def browser():
    need_module("selenium")
    chromium, driver = need("chromium", "chromium"), need("chromedriver", "chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    yield chrome
    chrome.quit()


def column(browser, table: str, head: str) -> list[str]:
    script = """
        const table = document.getElementById(arguments[0]);
        const index = [...table.tHead.rows[0].cells].findIndex(cell => cell.textContent.trim() === arguments[1]);
        return [...table.tBodies[0].rows].filter(row => !row.hidden).map(row => row.cells[index].textContent);
    """
    return browser.execute_script(script, table, head)


def click_head(browser, table: str, head: str) -> None:
    browser.find_element("xpath", f"//table[@id='{table}']//button[normalize-space()='{head}']").click()


def test_tables_sort_by_number_and_keep_empty_cells_last(browser, page):
    browser.get(page.as_uri())
    click_head(browser, "jobs", "best_val_acc")
    rising = column(browser, "jobs", "best_val_acc")
    assert rising[-2:] == ["", ""]
    assert [float(x) for x in rising[:-2]] == sorted(float(x) for x in rising[:-2])
    click_head(browser, "jobs", "best_val_acc")
    falling = column(browser, "jobs", "best_val_acc")
    assert falling[:-2] == rising[:-2][::-1]
    assert falling[-2:] == ["", ""]
    click_head(browser, "jobs", "model_name")
    names = column(browser, "jobs", "model_name")
    assert names == sorted(names)


def test_the_best_configurations_are_sorted_by_any_column(browser, page):
    browser.get(page.as_uri())
    means = [float(x) for x in column(browser, "best", "mean best_val_acc")]
    assert means == sorted(means, reverse=True)
    click_head(browser, "best", "learning_rate")
    rates = [float(x) for x in column(browser, "best", "learning_rate")]
    assert rates == sorted(rates)
    assert len(set(rates)) == 3


def test_the_filter_keeps_the_rows_with_all_words(browser, page):
    browser.get(page.as_uri())
    browser.find_element("id", "filter").send_keys("cnn done")
    assert column(browser, "jobs", "model_name") == ["cnn"] * 6


def test_nothing_is_fetched_and_nothing_is_wrong(browser, page):
    browser.get_log("performance")
    browser.get(page.as_uri())
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = {one["params"]["request"]["url"] for one in asked if one["method"] == "Network.requestWillBeSent"}
    assert {url for url in urls if not url.startswith("data:")} == {page.as_uri()}
    assert browser.get_log("browser") == []
    assert "http" not in page.read_text().replace("http-equiv", "")


def test_it_says_which_choice_mattered_and_shows_the_failures(browser, page):
    browser.get(page.as_uri())
    text = browser.find_element("tag name", "body").text
    assert "Which choices mattered" in text
    assert "NotImplementedError: TODO 1.2" in text
    bars = browser.find_element("class name", "bars").text.split("\n")
    assert bars[0] == "learning_rate"
    assert len(browser.find_elements("css selector", ".charts svg")) >= 3


@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_the_width(browser, page, width, tmp_path):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    browser.get(page.as_uri())
    overflow = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    assert overflow <= 0
    smallest = browser.execute_script(
        "return Math.min(...[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height))"
    )
    assert smallest >= 9  # pixels: the drawing's text stays legible
    shots = os.environ.get("SCREENSHOTS", str(tmp_path))
    height = browser.execute_script("return document.documentElement.scrollHeight")
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    assert browser.save_screenshot(os.path.join(shots, f"report-{width}.png"))
