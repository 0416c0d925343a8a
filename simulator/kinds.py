"""The words for what can go wrong, as switches and answers spell them."""

from enum import StrEnum


class Call(StrEnum):
    """A kind of call that a storm can hit."""

    DELETE = "delete"
    LIST = "list"
    SERVICES = "services"


class Fault(StrEnum):
    """What is answered in place of the truth."""

    SERVER_ERROR = "500"
    TOO_MANY = "429"
    HTML = "html"
    HANG = "hang"  # the connection stays open and no byte comes
    RESET = "reset"  # the connection is cut with a TCP reset


class ListGarbage(StrEnum):
    """How a page of the listing, answered with 200 unless noted, is no page of a listing."""

    NONE = "none"
    NOT_JSON = "not_json"
    TRUNCATED_JSON = "truncated_json"
    BAD_ENCODING = "bad_encoding"  # JSON that is not UTF-8
    EMPTY_BODY = "empty_body"
    DEEP_NESTING = "deep_nesting"  # deeper than a parser's stack
    WRONG_SHAPE = "wrong_shape"  # `results` is an object
    NULL_RESULTS = "null_results"
    MISSING_FIELDS = "missing_fields"  # some entries lack one
    WRONG_TYPES = "wrong_types"  # some entries hold nonsense in one field, or are no objects
    WRONG_CONTENT_TYPE = "wrong_content_type"  # the truth, as text/plain
    HUGE_BODY = "huge_body"  # `huge_body_mb` of JSON that begins like an empty listing
    DRIPPING_BODY = "dripping_body"  # a byte at a time, without end
    REDIRECT = "redirect"  # 302 to a page for people


class DeleteGarbage(StrEnum):
    """What a proxy says to every DELETE in the provider's place. Nothing is deleted behind it."""

    NONE = "none"
    HTML200 = "html200"  # a page for people, and all is well
    NOT_FOUND_HTML = "not_found_html"  # 404, but it is the proxy that found nothing
    HUGE_BODY = "huge_body"
    DRIPPING_BODY = "dripping_body"
    REDIRECT = "redirect"
