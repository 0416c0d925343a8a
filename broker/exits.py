"""The exit codes of the broker's processes. Standard library only: the supervisor reads them, too."""

from typing import Final

CRASH: Final = 1
UNAVAILABLE: Final = 69
"""EX_UNAVAILABLE of sysexits.h: the store could not be reached while the process booted."""
CONFIG: Final = 78
"""EX_CONFIG of sysexits.h: the configuration is wrong, a restart will not help."""
HUNG: Final = 124
"""As of timeout(1): the boot hung, and was ended."""
