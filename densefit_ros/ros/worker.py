"""One slot and one thread: the callback overwrites the slot, the thread answers the newest item, the rest is counted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Worker(Generic[T]):
    """Runs ``process`` on the newest submitted item, on a thread of its own.

    ``process`` owns whatever it touches: nothing else runs on that thread.  An exception that it lets out goes to
    ``on_error`` and the thread carries on.  ``start`` and ``stop`` may be called again and again.
    """

    def __init__(self, process: Callable[[T], None], on_error: Callable[[Exception], None]) -> None:
        self._process = process
        self._on_error = on_error
        self._changed = threading.Condition()
        self._slot: T | None = None
        self._running = False
        self._busy = False
        self._thread: threading.Thread | None = None
        self.received = 0
        self.dropped = 0  # overwritten by a newer item before their turn
        self.finished = 0

    def start(self) -> None:
        """Start the thread; does nothing when it runs."""
        with self._changed:
            if self._running:
                return
            self._running = True
            self._slot = None
            self.received = self.dropped = self.finished = 0
        self._thread = threading.Thread(target=self._loop, name="densefit_worker", daemon=True)
        self._thread.start()

    def submit(self, item: T) -> None:
        """Hand over an item, in constant time; an older one still waiting is dropped."""
        with self._changed:
            if not self._running:
                return
            self.received += 1
            self.dropped += self._slot is not None
            self._slot = item
            self._changed.notify_all()

    def idle(self, timeout_s: float) -> bool:
        """Wait until nothing is waiting or being processed; False when that took longer than ``timeout_s``."""
        with self._changed:
            return self._changed.wait_for(lambda: self._slot is None and not self._busy, timeout_s)

    def stop(self, timeout_s: float = 10.0) -> bool:
        """Finish the item in hand, forget the one waiting, end the thread.  False when it did not end in time."""
        with self._changed:
            self._running = False
            self._slot = None
            self._changed.notify_all()
        thread, self._thread = self._thread, None
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(timeout_s)
        return not thread.is_alive()

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._slot is not None or not self._running)
                if not self._running:
                    return
                item, self._slot, self._busy = self._slot, None, True
            try:
                self._process(item)  # type: ignore[arg-type]
            except Exception as e:  # the border of the thread: reported, never lost, and the node lives on
                self._on_error(e)
            finally:
                del item  # the last reference to an image must not wait for the next one
                with self._changed:
                    self._busy = False
                    self.finished += 1
                    self._changed.notify_all()
