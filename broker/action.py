"""By what a change was made: every action that an event may name. Pure."""

from enum import StrEnum


class Action(StrEnum):
    """The names are public API: people filter events by them."""

    # a student's script
    ALLOCATE = "allocate"
    EXTEND = "extend"
    RELEASE = "release"
    # an operator, one sandbox
    QUARANTINE = "quarantine"
    REINSTATE = "reinstate"
    DISCARD = "discard"
    FORCE_RELEASE = "force_release"
    RETRY = "retry"  # the worker too, some time after a deletion failed for good
    ABANDON = "abandon"
    # an operator's job, many sandboxes
    BULK_DELETE = "bulk_delete"
    BULK_RETRY = "bulk_retry"
    BULK_QUARANTINE = "bulk_quarantine"
    BULK_FORCE_RELEASE = "bulk_force_release"
    # the worker's sync
    ADDED = "added"
    CAME_BACK = "came_back"
    DELETE_AGAIN = "delete_again"
    STALE = "stale"
    # the worker's other tasks
    EXPIRE = "expire"
    DELETED = "deleted"
    DELETE_ATTEMPT_FAILED = "delete_attempt_failed"
    TURNED_AWAY = "turned_away"
    HANDED_BACK = "handed_back"  # the worker ended, or led no more, before it called the provider
    DELETION_REFUSED = "deletion_refused"
    DELETION_FAILED = "deletion_failed"
    PURGED = "purged"
    # jobs
    REQUEST_JOB = "request_job"
    CANCEL_JOB = "cancel_job"
    REQUEUE_JOB = "requeue_job"
    REFUSE_JOB = "refuse_job"
    END_JOB = "end_job"
    # the installation and its tenants
    IMPORT = "import"  # a sandbox of the old broker came over
    SET_MODE = "set_mode"
    CREATE_TENANT = "create_tenant"
    CHANGE_TENANT = "change_tenant"
    DRAIN_TENANT = "drain_tenant"
    RESUME_TENANT = "resume_tenant"
    DRAIN_POOL = "drain_pool"
    OPEN_POOL = "open_pool"
    CREATE_KEY = "create_key"
    ROTATE_KEY = "rotate_key"
    REVOKE_KEY = "revoke_key"
