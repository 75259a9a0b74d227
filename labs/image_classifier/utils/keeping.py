"""A run that fails before its first epoch is finished leaves the folder as it was, an older run in it included."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from toolkit.runs import PICTURES, RUN_FILES, RunFolder


@contextlib.contextmanager
def older_run_kept(folder: Path | None) -> Iterator[None]:
    """Put the files of the run in `folder` back if what replaces it (--overwrite) fails in its first epoch.

    Memory that is too small for a larger batch shows only there. None: nothing is replaced.
    """
    older = [] if folder is None else [name for name in (*RUN_FILES, *PICTURES) if (folder / name).is_file()]
    if folder is None or not older:
        yield
        return
    with tempfile.TemporaryDirectory(dir=folder, prefix=".older-") as aside:
        for name in older:
            os.replace(folder / name, Path(aside) / name)
        try:
            yield
        except BaseException:
            if not (folder / "last.pt").exists():
                for name in older:
                    os.replace(Path(aside) / name, folder / name)
            raise


def give_back(run: RunFolder) -> None:
    """Take away what marks a folder as a run's, and the folder if nothing is in it."""
    for name in RUN_FILES:
        run.file(name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not empty: the user keeps something there
        run.path.rmdir()
