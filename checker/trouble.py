"""Why a history cannot be explained, in one sentence that names operations by their numbers."""

from typing import NamedTuple

from checker.items import Item
from checker.plain import Plain


class Trouble(NamedTuple):
    """A sentence, and whom it is about; the first is who was told what cannot be.

    `revision` is where; `expected` is what the model would have answered the first, if its answer is the trouble.
    """

    text: str
    items: tuple[Item, ...]
    revision: int = 0
    expected: Plain | None = None
