"""Two movers side by side: whatever ends one of them, nothing goes on behind the caller's back."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from formats.core import streaming


class Interrupted(BaseException):
    pass


class _Work:
    def __init__(self) -> None:
        self.failure: BaseException | None = None
        self.computed: list[int] = []


class _Mover:
    """Works until the other one has failed, or raises ``error`` at once; ``error`` None: has nothing to do."""

    def __init__(self, work: _Work, error: BaseException | None = None, *, patient: bool = False) -> None:
        self.work, self.error, self.patient = work, error, patient
        self.ended = False

    def run(self, computed: list[int]) -> None:
        try:
            if self.error is not None:
                raise self.error
            until = time.monotonic() + 20
            while self.patient and self.work.failure is None and time.monotonic() < until:
                time.sleep(0.005)
        finally:
            self.ended = True


def side_by_side(work: Any, movers: list[Any]) -> None:
    streaming._side_by_side(work, movers)


@pytest.mark.parametrize("failing", [0, 1])
def test_what_one_raises_ends_both(failing: int) -> None:
    work = _Work()
    movers = [_Mover(work, patient=True), _Mover(work, patient=True)]
    movers[failing] = _Mover(work, OSError("gone"))
    with pytest.raises(OSError, match="gone"):
        side_by_side(work, movers)
    assert all(mover.ended for mover in movers)


def test_a_signal_while_waiting_for_the_other_one() -> None:
    work = _Work()
    movers = [_Mover(work), _Mover(work, patient=True)]

    def interrupt(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Interrupted):
            side_by_side(work, movers)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert all(mover.ended for mover in movers)
