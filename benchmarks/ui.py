"""Time until the groups on the graph page of a running UI are readable.

``python benchmarks/ui.py LINK`` with the link that ``fer ui`` printed; needs Chromium and
playwright. Each load uses a new browser with an empty cache. Also prints how busy the machine was.
"""

import os
import shutil
import statistics
import sys
import time

from playwright.sync_api import sync_playwright

LOADS = 5


def load_seconds(link: str) -> float:
    """Return the seconds from the request to the last group of the graph, in a new browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"),
            args=["--no-sandbox"],
        )
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        started = time.monotonic()
        page.goto(link.replace("/fer/?", "/asset-groups?"), wait_until="commit")
        # The name stands in the side bar and, once the graph is laid out, in the graph.
        page.get_by_text("deployment", exact=True).locator("visible=true").nth(1).wait_for()
        seconds = time.monotonic() - started
        browser.close()
    return seconds


def main() -> None:
    """Measure, then print the median and the range of the loads."""
    seconds = [load_seconds(sys.argv[1]) for _ in range(LOADS)]
    print(
        f"graph page: median {statistics.median(seconds):.2f} s of {LOADS} loads "
        f"({min(seconds):.2f} to {max(seconds):.2f} s), {os.cpu_count()} cores, "
        f"load average {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
