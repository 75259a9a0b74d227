"""A real browser for the tests of pages, without a network."""

from __future__ import annotations

from tests.sweeps.cluster.needs import need, need_module


def start():
    """Chromium without a window; the test is skipped where it is missing, and fails in CI."""
    need_module("selenium")
    chromium, driver = need("chromium", "chromium"), need("chromedriver", "chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    alone = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", alone):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))


def show(browser, width: int) -> None:
    """Show pages as a screen of this width does; a narrow one is a telephone's."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def width_of(browser) -> int:
    """Width of the page in pixels (window.innerWidth would grow with it on a telephone)."""
    return browser.execute_script("return document.documentElement.scrollWidth")


def keys(browser, text: str) -> None:
    """Typed as a person does, wherever the focus is."""
    from selenium.webdriver import ActionChains

    ActionChains(browser).send_keys(text).perform()
