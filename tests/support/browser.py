"""Headless Chromium for the page's tests: Debian's browser and driver, fetched by nobody at test time."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PATIENCE_S = 60
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
HOW = "on Debian: apt-get install chromium chromium-driver; and pip install selenium"


def missing() -> str | None:
    """What the page's tests lack here, in words; None if nothing."""
    if not chromium() or not shutil.which("chromedriver"):
        return f"the page's tests need chromium and chromedriver ({HOW})"
    try:
        import selenium  # noqa: F401
    except ImportError:
        return f"the page's tests need selenium ({HOW})"
    return None


def chromium() -> str | None:
    """Path of the browser."""
    return next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )


class Browser:
    """A driver with what the tests say often."""

    def __init__(self, profile: Path) -> None:
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        for flag in (*_FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.binary_location = chromium()
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        # Named paths: selenium looks for no driver elsewhere.
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        self.driver = webdriver.Chrome(options=options, service=service)
        self.driver.set_script_timeout(PATIENCE_S)

    def open(self, url: str, *, width: int = 1280, height: int = 860, scheme: str = "light") -> None:
        """A fresh page of this size and colour scheme, with an empty log and no stored theme."""
        self.size(width, height)
        self.scheme(scheme)
        self.driver.get(url)
        self.js("localStorage.clear()")
        self.driver.get(url)
        self.log()

    def size(self, width: int, height: int) -> None:
        """Size of the viewport in CSS pixels."""
        values = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", values)

    def scheme(self, name: str, *, motion: str = "no-preference") -> None:
        """What the system prefers: ``light`` or ``dark``, ``reduce`` or ``no-preference``."""
        features = [
            {"name": "prefers-color-scheme", "value": name},
            {"name": "prefers-reduced-motion", "value": motion},
        ]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def js(self, script: str, *args: Any) -> Any:
        """The script's return value."""
        return self.driver.execute_script(script, *args)

    def module(self, body: str, *args: Any) -> Any:
        """Value of an async function's body; ``load(name)`` imports a module of the page."""
        script = (
            "const done = arguments[arguments.length - 1];"
            "const load = (name) => import(new URL('page/' + name, location.href));"
            f"(async (...args) => {{ {body} }})(...arguments)"
            ".then((value) => done({ value }), (error) => done({ error: String(error.stack) }));"
        )
        result = self.driver.execute_async_script(script, *args)
        assert "error" not in result, result["error"]
        return result["value"]

    def find(self, selector: str) -> Any:
        """First element."""
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> list[Any]:
        """All elements."""
        return self.driver.find_elements("css selector", selector)

    def text(self, selector: str) -> str:
        """Text of the first element, shown or not."""
        return str(self.js("return document.querySelector(arguments[0]).textContent", selector))

    def press(self, *keys: str, shift: bool = False) -> None:
        """Keys to whatever has the focus, with Shift held down or not."""
        from selenium.webdriver import ActionChains, Keys

        chain = ActionChains(self.driver)
        chain = chain.key_down(Keys.SHIFT).send_keys(*keys).key_up(Keys.SHIFT) if shift else chain.send_keys(*keys)
        chain.perform()

    def focus(self) -> str:
        """Id of the focused element, or its tag."""
        return str(self.js("return document.activeElement.id || document.activeElement.tagName"))

    def until(self, what: Callable[[], Any], why: str) -> Any:
        """The first true value of ``what``."""
        from selenium.common.exceptions import TimeoutException
        from selenium.webdriver.support.wait import WebDriverWait

        try:
            return WebDriverWait(self.driver, PATIENCE_S, poll_frequency=0.05).until(lambda _: what())
        except TimeoutException:
            said = self.js("return document.body.innerText")
            raise AssertionError(f"never {why}; the page says:\n{said}\nand its log: {self.log()}") from None

    def log(self) -> list[str]:
        """Console lines since the last call: errors and warnings."""
        lines = self.driver.get_log("browser")
        return [line["message"] for line in lines if line["level"] in ("SEVERE", "WARNING")]


def browsers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser, or a skip that says what is missing."""
    lacks = missing()
    if lacks:
        pytest.skip(lacks)
    made = Browser(tmp_path_factory.mktemp("chromium"))
    try:
        yield made
    finally:
        made.driver.quit()
