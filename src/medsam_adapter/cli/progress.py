"""Progress bars that a callback can drive; on standard error, so that --json output stays clean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm


@contextmanager
def bar(what: str, total: int, unit: str = "slice", show: bool = True) -> Iterator[Callable[..., None]]:
    """A bar; the callback takes the number that is done."""
    with tqdm(total=total, desc=what, unit=unit, leave=False, disable=not show) as shown:

        def update(done: int, *_) -> None:
            shown.update(done - shown.n)

        yield update
