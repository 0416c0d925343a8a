"""What a credential may do, in four words. Pure."""

from enum import StrEnum
from typing import Final


class Role(StrEnum):
    TRACK = "track"
    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


IMPLIED: Final[dict[Role, frozenset[Role]]] = {
    Role.TRACK: frozenset({Role.TRACK}),
    Role.VIEWER: frozenset({Role.VIEWER}),
    Role.OPERATOR: frozenset({Role.OPERATOR, Role.VIEWER}),
    Role.ADMIN: frozenset({Role.ADMIN, Role.OPERATOR, Role.VIEWER}),
}
"""What each role may do besides its own. An admin holds no lab: `track` is nobody's but the tracks'."""
