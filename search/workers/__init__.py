"""Where trials run: Ray tasks that keep nothing, one exclusive measuring actor per device.

The only folder that imports Ray. Ray never retries on its own (that would hide a crash and defeat the
limit on attempts); every fault comes back to the driver as a `Fault` with its kind.
"""

from .cluster import Needs
from .crew import Crew, crew
from .faults import Fault, Kind

__all__ = ["Crew", "Fault", "Kind", "Needs", "crew"]
