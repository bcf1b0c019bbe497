"""A browser for tests that need one, without a network beyond this machine."""

import os
import shutil
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest

FLAGS = (
    "no-sandbox",
    "disable-gpu",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
    "host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost",
)


def no_browser(reason: str) -> NoReturn:
    if os.environ.get("PLGL_REQUIRE_BROWSER") == "1":
        pytest.fail(f"{reason}, and PLGL_REQUIRE_BROWSER=1 asks for one")
    pytest.skip(reason)


@pytest.fixture(scope="module")  # playwright holds an event loop, which other tests need for themselves
def browser() -> Iterator[Any]:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    program = next((found for name in names if (found := shutil.which(name))), None)
    if program is None:
        no_browser("no chromium on the path")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        no_browser("playwright is not installed")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=[f"--{flag}" for flag in FLAGS])
        yield started
        started.close()
