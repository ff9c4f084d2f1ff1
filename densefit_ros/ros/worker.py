"""One slot per camera and one thread for all: a callback overwrites its camera's slot, the thread answers what waits."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Worker(Generic[T]):
    """Runs ``process(slot, item)`` on a thread of its own, for the newest item of each slot, slots taking turns.

    ``patience(slot, item)`` says how many seconds an item should still wait for what belongs to it; other slots are
    served meanwhile, and ``wake`` asks anew.  ``process`` owns whatever it touches: nothing else runs on that thread.
    An exception that it or ``patience`` lets out goes to ``on_error`` and the thread carries on.  The thread
    runs from construction to ``stop``, once.
    """

    def __init__(
        self,
        process: Callable[[str, T], None],
        on_error: Callable[[str, Exception], None],
        patience: Callable[[str, T], float] = lambda slot, item: 0.0,
    ) -> None:
        self._process, self._on_error, self._patience = process, on_error, patience
        self._changed = threading.Condition()
        self._newest: dict[str, T] = {}
        self._turns: dict[str, None] = {}  # slots with an item, in the order of their turns
        # Items that had to wait when their turn came.  They are not overwritten: an image that waits for its depth would
        # otherwise be replaced by the next one, which has to wait in turn, for ever.
        self._held: dict[str, T] = {}
        self._running = True
        self._busy_since_s: float | None = None  # time.monotonic() when the item in hand was taken
        self.received: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()  # overwritten by a newer item before their turn
        self.finished: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._loop, name="densefit_worker", daemon=True)
        self._thread.start()

    def submit(self, slot: str, item: T) -> None:
        """Hand over an item, in constant time; an older one still waiting in its slot is dropped."""
        with self._changed:
            if not self._running:
                return
            self.received[slot] += 1
            self.dropped[slot] += slot in self._newest
            self._newest[slot] = item
            self._changed.notify_all()

    def wake(self) -> None:
        """Something that an item may have been waiting for has arrived."""
        with self._changed:
            self._changed.notify_all()

    def idle(self, timeout_s: float) -> bool:
        """Wait until nothing is waiting or being processed; False when that took longer than ``timeout_s``."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._newest or self._held or self._busy_since_s is not None), timeout_s)

    def busy_s(self) -> float:
        """How many seconds the item in hand has taken so far; 0 when there is none."""
        since_s = self._busy_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def is_dead(self) -> bool:
        """Whether the thread has ended although nobody stopped it, and items wait."""
        with self._changed:
            return self._running and not self._thread.is_alive() and bool(self._newest or self._held)

    def stop(self, timeout_s: float = 10.0) -> bool:
        """Finish the item in hand, forget those waiting, end the thread.  False when it did not end in time: ask again."""
        with self._changed:
            self._running = False
            for waiting in (self._newest, self._held, self._turns):
                waiting.clear()
            self._changed.notify_all()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _loop(self) -> None:
        while True:
            with self._changed:
                slot = self._next_slot()
                if slot is None:
                    return
                item, self._busy_since_s = self._held.pop(slot), time.monotonic()
            try:
                self._process(slot, item)
            except Exception as e:  # the border of the thread: reported, never lost, and the node lives on
                self._report(slot, e)
            finally:
                del item  # the last reference to an image must not wait for the next one
                with self._changed:
                    self._busy_since_s = None
                    self.finished[slot] += 1
                    self._changed.notify_all()

    def _next_slot(self) -> str | None:
        """The slot to serve; waits for one; None when told to stop.  A slot just served stands at the end of the line."""
        while self._running:
            self._turns |= dict.fromkeys(s for s in self._newest if s not in self._turns)
            soonest = None
            for slot in self._turns:
                wait_s = self._wait_s(slot)
                if wait_s <= 0:
                    del self._turns[slot]
                    return slot
                soonest = wait_s if soonest is None else min(soonest, wait_s)
            self._changed.wait(soonest)
        return None

    def _wait_s(self, slot: str) -> float:
        """How long the slot's item has to wait, which is the held one from now on: the newest, if it need not or none is held."""
        if slot in self._newest:
            wait_s = self._patience_s(slot, self._newest[slot])
            if wait_s <= 0 or slot not in self._held:
                self.dropped[slot] += slot in self._held
                self._held[slot] = self._newest.pop(slot)
                return wait_s
        return self._patience_s(slot, self._held[slot])

    def _patience_s(self, slot: str, item: T) -> float:
        try:
            return self._patience(slot, item)
        except Exception as e:  # asked anew it would fail anew: what came with the item has to do
            self._report(slot, e)
            return 0.0

    def _report(self, slot: str, error: Exception) -> None:
        try:
            self._on_error(slot, error)
        except Exception:  # a thread that ends here answers nobody any more, and nobody is told
            _log.exception("%s of '%s' could not be reported", type(error).__name__, slot)
