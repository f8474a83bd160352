import os
import signal

import pytest

from scaledl.distributed.preemption import STOP_SIGNALS, StopFlag
from scaledl.errors import Interrupted, Preempted

pytestmark = pytest.mark.unit


@pytest.fixture
def flag():
    before = {signum: signal.getsignal(signum) for signum in STOP_SIGNALS}
    flag = StopFlag()
    flag.install()
    yield flag
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.parametrize(
    ("signum", "outcome", "code"),
    [(signal.SIGUSR1, Preempted, 75), (signal.SIGTERM, Preempted, 75), (signal.SIGINT, Interrupted, 130)],
)
def test_a_signal_only_sets_the_flag(flag, signum, outcome, code):
    os.kill(os.getpid(), signum)
    assert flag.signum == signum
    with pytest.raises(outcome, match=f"stopped by {signum.name}; saved") as caught:
        flag.raise_if_set("saved")
    assert caught.value.exit_code == code


def test_the_first_signal_decides_and_a_second_ctrl_c_interrupts(flag):
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)
    assert flag.signum == signal.SIGINT
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_take_back_leaves_signals_alone_that_were_never_ours():
    before = signal.getsignal(signal.SIGTERM)
    StopFlag().take_back()
    assert signal.getsignal(signal.SIGTERM) is before
