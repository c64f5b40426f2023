"""How soon the report page answers, in Chromium: from an event to the end of the frame that shows what it changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import browsers
import pytest
import synthetic

TIMES = 15
PAINTED = """async () => {
  const began = performance.now();
  ACT;
  await new Promise(done => requestAnimationFrame(() => {
    const after = new MessageChannel();
    after.port1.onmessage = done;
    after.port2.postMessage(0);
  }));
  return performance.now() - began;
}"""
ACTS = {
    "filter by method": "document.querySelector(\".filter[data-kind=method] input[data-name='mann']\").click()",
    "filter by task": "document.querySelector(\".filter[data-kind=task] input[data-name='omniglot-online']\").click()",
    "sort": "document.querySelectorAll('.records thead button')[5].click()",
    "search": "{ const box = document.querySelector('.search input'); box.value = box.value ? '' : 'ntm';"
    " box.dispatchEvent(new Event('input')) }",
    "scroll by a screen": "scrollBy(0, innerHeight)",
}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, int]]:
    """The page of many records, and how many."""
    made = synthetic.crowd()
    address = browsers.write(tmp_path_factory.mktemp("page"), browsers.page(made))
    for chromium in browsers.browser():
        page = chromium.new_page(viewport={"width": 1280, "height": 900})
        page.goto(address)
        yield page, len(made)


@pytest.mark.benchmark(group="report page of 2,000 records: from an event to the frame that shows it")
@pytest.mark.parametrize("act", ACTS)
def test_answer(benchmark: Any, act: str, opened: tuple[Any, int]) -> None:
    page, count = opened

    def times() -> list[float]:
        return [page.evaluate(PAINTED.replace("ACT", ACTS[act])) / 1000 for _ in range(TIMES)]

    values = benchmark.pedantic(times, rounds=1)
    benchmark.extra_info.update(values=values, name=act, records=count)
