"""When Python looks for garbage in cycles: seldom, so that a burst is not walked again and again while it waits.

By default it looks at all that is alive whenever a quarter has come on top. Of two thousand students at once each
holds hundreds of objects until it is their turn: looking took a third of the processor time of such a burst.
"""

import gc
from typing import Final

YOUNG: Final = 10_000
"""Objects more than have gone, before those are looked at that have come since."""
MIDDLE: Final = 20
"""So many looks at the youngest, before those are looked at that survived one."""


def calm() -> None:
    """For a process that has loaded its code: what is there now stays, and is not looked at again.

    All that are alive are looked at after YOUNG x MIDDLE x 10 objects: more than wait in any burst.
    """
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE)
