"""Several handlers as one entry of a handler list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ignite.engine import Engine


class HandlerGroup:
    """Attaches its handlers in order; None (disabled by an overlay) is passed over.

    In a config it stands for references such as `@ema`: MONAI's property check and MONAI Label read `_target_` of every
    entry of a handler list, and fail on a bare reference.

    Args:
        handlers: objects with `attach(engine)`, or None.
    """

    def __init__(self, handlers: Sequence[Any]) -> None:
        self.handlers = [handler for handler in handlers if handler is not None]

    def attach(self, engine: Engine) -> None:
        for handler in self.handlers:
            handler.attach(engine)
