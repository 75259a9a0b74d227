"""report.html in a real browser: it answers the questions of a TA, fetches nothing, and fits a telephone."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest

from tests.sweeps import tools
from tests.sweeps.cluster.needs import need, need_module
from tests.sweeps.test_strange import RESULTS, STRANGE, write


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
    run = tools.sweep(folder, grid, "--num_workers", "2", "--retries", "0")
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
    assert names == [*sorted(name for name in names if name), "", ""]


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
    assert "http" not in page.read_text().replace("http-equiv", "").replace("https://github.com/leeoniya/uPlot", "")


def test_names_that_mean_something_to_javascript_are_names(browser, tmp_path):
    """One job has a flag and a column `constructor`, another `__proto__`; in JavaScript every object has them."""
    run = tools.sweep(tmp_path, STRANGE, "--num_workers", "2", script=write(tmp_path, RESULTS))
    assert run.returncode == 0, run.stdout + run.stderr
    browser.get_log("browser")
    browser.get((tmp_path / "logs/report.html").as_uri())
    assert browser.get_log("browser") == []
    assert sorted(column(browser, "jobs", "constructor")) == [""] * 8 + ["x", "y"]
    assert sorted(column(browser, "best", "constructor"))[-2:] == ["x", "y"]
    assert not browser.execute_script("return document.querySelector('main').textContent.includes('native code')")


def test_it_says_which_choice_mattered_and_shows_the_failures(browser, page):
    browser.get(page.as_uri())
    text = browser.find_element("tag name", "body").text
    assert "Which choices mattered" in text
    assert "NotImplementedError: TODO 1.2" in text
    bars = browser.find_element("class name", "bars").text.split("\n")
    assert bars[0] == "learning_rate"
    assert "0.2: 0.205 (n=4)" in browser.find_element("css selector", ".bars .levels").text
    browser.find_elements("css selector", "details summary")[0].click()
    assert "TODO 1.2" in browser.find_element("css selector", "details pre").text


def test_the_curve_under_the_pointer_has_its_value_in_the_legend_which_hides_and_shows(browser, page):
    browser.get(page.as_uri())
    over = browser.find_element("css selector", "#curves .u-over")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", over)
    webdriver_actions(browser).move_to_element_with_offset(over, over.size["width"] // 2 - 2, 0).perform()
    values = [cell.text for cell in browser.find_elements("css selector", "#curves .u-legend .u-value")]
    assert values[0] == "2"
    assert set(values[1:]) == {"0.6"}  # the toy's second epoch
    entry = browser.find_elements("css selector", "#curves .u-legend .u-series")[1]
    assert "learning_rate=0.2" in entry.text
    entry.find_element("css selector", "th").click()
    assert "u-off" in entry.get_attribute("class")
    entry.find_element("css selector", "th").click()
    assert "u-off" not in entry.get_attribute("class")


def webdriver_actions(browser):
    from selenium.webdriver import ActionChains

    return ActionChains(browser)


def cells(browser, selector: str) -> list[list[str]]:
    rows = browser.find_elements("css selector", f"{selector} tr")
    return [[cell.text for cell in row.find_elements("css selector", "th, td")] for row in rows]


def test_the_heat_map_shows_the_mean_of_each_pair_of_values(browser, page):
    browser.get(page.as_uri())
    pick(browser, "rows", "learning_rate")
    pick(browser, "columns", "model_name")
    table = cells(browser, "#heat")
    assert table[0][1:] == ["cnn", "mlp"]
    assert table[1:] == [["0.05", "0.055", "0.055"], ["0.1", "0.105", "0.105"], ["0.2", "0.205", "0.205"]]
    tints = [
        cell.value_of_css_property("background-color") for cell in browser.find_elements("css selector", "#heat td")
    ]
    alphas = [float(tint.rstrip(")").split(",")[3]) for tint in tints if tint.count(",") == 3 and "0, 114" in tint]
    assert max(alphas) > 2 * min(alphas)


def pick(browser, name: str, value: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(browser.find_element("id", name)).select_by_visible_text(value)


def test_two_runs_next_to_each_other_show_what_differs(browser, page):
    browser.get(page.as_uri())
    names = [option.text for option in browser.find_elements("css selector", "#first option")]
    slow, fast = (next(n for n in names if f"learning_rate={rate}," in n and "cnn,seed=1" in n) for rate in (0.05, 0.2))
    pick(browser, "first", slow)
    pick(browser, "second", fast)
    table = {row[0]: row[1:] for row in cells(browser, "#differences")[1:]}
    assert table["learning_rate"] == ["0.05", "0.2"]
    assert table["best_val_acc"] == ["0.06", "0.21"]
    assert not {"model_name", "seed", "title"} & set(table)
    assert len(browser.find_elements("css selector", "#overlay .u-legend .u-series")) == 3


def test_the_best_command_is_there_to_copy_and_runs(browser, page):
    browser.get(page.as_uri())
    command = browser.find_element("id", "command").text
    assert command.startswith("python tests/sweeps/toy.py ")
    assert "--learning_rate 0.2" in command
    browser.find_element("id", "copy").click()
    assert browser.find_element("id", "copy").text in ("copied", "press Ctrl-C")
    assert browser.execute_script("return getSelection().toString().trim()") == command


def test_the_csv_button_saves_what_the_table_shows(browser, page, tmp_path):
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    browser.get(page.as_uri())
    browser.find_element("id", "csv").click()
    tools.wait_until((tmp_path / "jobs.csv").exists, "the file is saved", 10)
    with open(tmp_path / "jobs.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 14
    assert {row["title"] for row in rows} == {"<b onclick='x'>&amp;", ""}
    assert {row["status"] for row in rows} == {"done", "failed"}
    assert all((page.parent / row["job"]).is_dir() for row in rows)


def test_links_lead_to_log_and_folder_and_the_cost_is_there(browser, page):
    browser.get(page.as_uri())
    links = browser.find_elements("css selector", "#jobs a")
    assert len(links) == 2 * 14
    for link in links[:2]:
        assert browser.execute_script(
            "return decodeURIComponent(new URL(arguments[0].href).pathname)", link
        ).startswith(str(page.parent))
    browser.get(links[0].get_attribute("href"))
    assert browser.find_element("tag name", "body").text.startswith("$ ")
    browser.get(page.as_uri())
    assert all(float(cell) > 0 for cell in column(browser, "best", "time, s"))
    assert all(float(cell) > 1 for cell in column(browser, "best", "memory, MB"))


def test_the_search_history_is_drawn(browser, page):
    browser.get(page.as_uri())
    labels = [one.text for one in browser.find_elements("css selector", "#history .u-legend .u-label")]
    assert labels == ["done jobs", "job", "best so far"]


@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_the_width(browser, page, width, tmp_path):
    show(browser, width, 900)
    browser.get(page.as_uri())
    overflow = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    assert overflow <= 0
    inside = "const box = arguments[0].getBoundingClientRect(); return box.left >= 0 && box.right <= window.innerWidth"
    winner = browser.find_element("id", "winner")
    assert browser.execute_script(inside, winner)
    assert "learning_rate=0.2" in winner.text  # the best configuration with its flags, without scrolling sideways
    assert winner.location["y"] < 900
    assert all(browser.execute_script(inside, span) for span in winner.find_elements("css selector", ".flags span"))
    if width == 1280:  # every column of every table
        for table in browser.find_elements("css selector", ".scroll"):
            assert browser.execute_script("return arguments[0].scrollWidth <= arguments[0].clientWidth", table)
    shots = os.environ.get("SCREENSHOTS", str(tmp_path))
    show(browser, width, browser.execute_script("return document.documentElement.scrollHeight"))
    assert browser.save_screenshot(os.path.join(shots, f"report-{width}.png"))


def show(browser, width: int, height: int) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
    )
