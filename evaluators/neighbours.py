"""Who else works on this machine."""

import os
from time import monotonic, process_time


class Neighbours:
    """What other processes have used of this machine since it was made."""

    def __init__(self) -> None:
        self._began, self._used = monotonic(), _used_s()

    def share(self) -> float:
        """Of all cores, 0 to 1; what a hypervisor took from this machine counts as theirs."""
        room = (monotonic() - self._began) * (os.cpu_count() or 1)
        return min(1.0, max(0.0, (_used_s() - self._used) / room))


def _used_s() -> float:
    """CPU seconds of all others. https://man7.org/linux/man-pages/man5/proc_stat.5.html"""
    import psutil  # a tenth of a second, of which only those who measure have use

    times = psutil.cpu_times()
    kinds = ("user", "nice", "system", "steal")  # not every system knows all of them
    return sum(float(getattr(times, kind, 0.0)) for kind in kinds) - process_time()
