"""What Ctrl-C means, phase by phase."""

import os
import signal

import pytest

from deploytool.signals import held_back


def test_signal_that_is_held_back_interrupts_at_the_end_of_what_it_would_have_cut() -> None:
    before = signal.getsignal(signal.SIGTERM)
    done = []

    def begin() -> None:
        with held_back():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("all the same")

    with pytest.raises(KeyboardInterrupt):
        begin()
    assert done == ["all the same"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_nothing_is_interrupted_without_a_signal() -> None:
    with held_back():
        pass
