"""A stop that the user asks for by a signal, and that waits for a good moment."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether the user wants to stop: SIGINT (Ctrl-C) or SIGTERM came."""

    requested = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While inside, the first signal asks for a stop; a second one acts as it always does."""
        previous = {number: signal.signal(number, self._request) for number in (signal.SIGINT, signal.SIGTERM)}
        self._previous = previous
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        for other, handler in self._previous.items():
            signal.signal(other, handler)
