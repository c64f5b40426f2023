"""The official archives: where they are and how to get them."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from bench.errors import BenchError

HOME = "https://github.com/brendenlake/omniglot"
RAW = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
_DRAWN = {
    "images_background.zip": "md5:68d2efa1b9178cc56df9314c21c6e718",
    "images_evaluation.zip": "md5:6b91aef0f799c5bb55b94e3f2daec811",
}
_RUNS = {
    "one-shot-classification/all_runs.zip": "sha256:437c1eeab0af8484112e1b4cc0f3d541ec727f7c47b9b202da738af9dfd6c325"
}
ARCHIVES = {"omniglot": _DRAWN, "lake": _DRAWN | _RUNS}
"""Data sets, and the official archives of each: path below `RAW`, and checksum."""


def download(path: str, checksum: str, folder: Path) -> None:
    """Fetch one archive into a folder, with a progress bar; a file that fails its checksum is not kept.

    Raises:
        BenchError: no connection, a folder that cannot be written, or a file that is not the official one.
    """
    import pooch
    import requests

    file = PurePosixPath(path).name
    bar = _Bar(file)
    try:
        pooch.retrieve(f"{RAW}/{path}", checksum, file, folder, downloader=pooch.HTTPDownloader(progressbar=bar))
    except requests.ConnectionError as error:
        raise BenchError(
            f"cannot get {RAW}/{path}: no connection; put the file into {folder} by other means"
        ) from error
    except (OSError, ValueError) as error:  # other errors of requests are OSErrors; ValueError: another checksum
        raise BenchError(f"cannot get {RAW}/{path} into {folder}: {error}") from error
    finally:
        bar.close()


class _Bar:
    """What pooch asks of a progress bar, shown by rich."""

    total = 0

    def __init__(self, title: str) -> None:
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

        self._progress = Progress("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
        self._task = self._progress.add_task(title, total=None)
        self._progress.start()

    def update(self, advance: int) -> None:
        self._progress.update(self._task, advance=advance, total=self.total or None)

    def reset(self) -> None:
        self._progress.reset(self._task)

    def close(self) -> None:
        self._progress.stop()
