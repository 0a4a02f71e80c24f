"""What holds for all tests."""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

# the commands that tests start keep what they compiled: each would compile the whole of lamina anew
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# a shell that starts the tests in the background has Ctrl-C ignored, also by what they start
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# no test fails because the host is busy
settings.register_profile("any host", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any host")
