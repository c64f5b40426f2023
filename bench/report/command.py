"""What `bench report` does: write the page, or serve it while records are added."""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence
from pathlib import Path

from bench import files, records, report, views
from bench.report import serving


def write(suites: Sequence[str], results: Path, out: Path, *, dirty: bool, opened: bool) -> None:
    """Write the page of a results folder to a file. opened: show it in the browser.

    Raises:
        BenchError: no such folder or suite, a suite without a record, or a file that cannot be written.
    """
    records.check_folder(results)
    problems: list[str] = []
    page = report.render(results, suites, dirty=dirty, problems=problems).encode()
    files.replace(out, page)
    views.left_out(problems)
    views.console().print(f"wrote {out}, {len(page) / 1e6:.1f} MB; it opens from disk in any browser", soft_wrap=True)
    if opened:
        webbrowser.open(out.resolve().as_uri())


def watch(suites: Sequence[str], results: Path, port: int, *, dirty: bool, opened: bool) -> None:
    """Serve the page on this machine alone until Ctrl-C; it follows the records.

    Raises:
        BenchError: no such folder or suite, a suite without a record, or a port that is taken.
    """
    records.check_folder(results)
    pages = serving.Pages(results, lambda: report.render(results, suites, dirty=dirty, live=True))
    server = serving.server(pages, port)
    views.left_out(records.load(results).problems)
    pages.newest()  # what is wrong with the request is said here, not in the browser
    address = f"http://{serving.HOST}:{server.server_port}/"
    views.console().print(f"{address} follows the records in {results}; Ctrl-C ends it", soft_wrap=True)
    if opened:
        webbrowser.open(address)
    with server:
        server.serve_forever()
