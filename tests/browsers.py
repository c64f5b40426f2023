"""A real browser for tests, and records that show all a report page has."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import synthetic

from bench import registry, report
from bench.report import blocks

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def browser() -> Iterator[Any]:
    """Chromium under playwright; the test is skipped where one of them is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    found = os.environ.get("BENCH_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no browser here: apt-get install chromium, or name one in BENCH_BROWSER")
    with playwright.sync_playwright() as started:
        # Inside a container, and as root, there is no sandbox to be had.
        made = started.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield made
        made.close()


def rich(seeds: range = range(3)) -> list[dict[str, Any]]:
    """Records with all that a page shows: curves, instances, ages, loads, diagnostics, ablations, failures."""
    return [
        *synthetic.showcase(seeds),
        *synthetic.probed(seeds, ("mann", "ntm", "dnc", "lstm")),
        *synthetic.copied(seeds, ("ntm", "sam", "lstm")),
        *synthetic.ablated(seeds),
    ]


def page(made: list[dict[str, Any]], more: list[dict[str, Any]] | None = None, **options: Any) -> str:
    """The page of records, as one suite, and of more as another."""
    registry.load()
    suites = [blocks.suite("synthetic", "Synthetic records", made, {}, False)]
    suites += [blocks.suite("second", "More of them", more, {}, False)] if more else []
    return report.page(suites, **options)


def write(folder: Path, text: str, name: str = "report.html") -> str:
    """The address of a page on disk."""
    (folder / name).write_text(text, encoding="utf-8")
    return (folder / name).as_uri()
