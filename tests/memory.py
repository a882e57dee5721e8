"""How much memory a process of its own needs, which its parent's must not hide."""

import sys

import pytest

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
PEAK = '''
def peak():
    """The most memory this process had, in MB. Not ru_maxrss: that begins with what the parent had when it forked."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM"))
'''
