"""What an operator can set, by environment variable. Problems are reported all at once."""

import re
from collections.abc import Iterator
from importlib.util import find_spec
from ipaddress import ip_network
from typing import Annotated, Any, ClassVar, Final, Literal
from urllib.parse import unquote, urlsplit

from pydantic import (
    AfterValidator,
    AliasChoices,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

MIN_TOKEN_CHARS = 20
MIN_PEPPER_CHARS = 32
_EXAMPLE = re.compile(
    r"change.?me|example|placeholder|your.?(api.?|admin.?)?token|password|^(.)\2+$|^[0-9]+$", re.IGNORECASE
)

Source = Literal["environment", "default"]
Seconds = Annotated[float, Field(gt=0)]
WEEK_S = 7 * 24 * 3600

TENANT_PATTERN = r"^[A-Za-z0-9._:-]{1,64}$"
RATE_LIMIT = (
    r"^[1-9]\d{0,8} ?(/| per ) ?"
    r"(([1-9]\d{0,4} ?)?second|([1-9]\d{0,3} ?)?minute|([1-9]\d? ?)?hour|([1-9] ?)?day)s?$"
)
"""The time is nine days at the most: who is refused must live to see the end of it."""
RATE_FORM = "a number of requests and a time, 9 days at the most, such as 60/minute or 5000/10 seconds"


def weak_token(token: SecretStr) -> str | None:
    """Why this token may not guard anything, or None where it may."""
    text = token.get_secret_value()
    if not text:
        return "is missing"
    if len(text) < MIN_TOKEN_CHARS:
        return f"is shorter than {MIN_TOKEN_CHARS} characters"
    if _EXAMPLE.search(text):
        return "looks like an example value (a word such as changeme or password, one character, digits only)"
    if not re.fullmatch(r"[\x21-\x7e]+", text):
        return "holds characters that a header cannot carry"
    return None


def _strong(token: SecretStr) -> SecretStr:
    if why := weak_token(token):
        raise ValueError(why)
    return token


Token = Annotated[SecretStr, AfterValidator(_strong), Field(validate_default=True)]


def _guarded_by(info: ValidationInfo) -> bool:
    """Whether the rules for everything but a developer's machine hold: also where BROKER_ENV itself is wrong."""
    return info.data.get("environment") != "development"


def _encrypted(url: str | None, info: ValidationInfo) -> str | None:
    if url and url.startswith("http://") and _guarded_by(info):
        raise ValueError("is plain http: set BROKER_ENV=development, or use https")
    return url


Encrypted = AfterValidator(_encrypted)

_TRACING_PACKAGES: Final = {
    "opentelemetry.sdk.trace": "opentelemetry-sdk",
    "opentelemetry.exporter.otlp.proto.http": "opentelemetry-exporter-otlp-proto-http",
}
_HERE: Final = ("localhost", "127.0.0.1", "::1")
_SAMPLERS: Final = tuple(
    parent + name for parent in ("", "parentbased_") for name in ("always_on", "always_off", "traceidratio")
)


def _is_traced(info: ValidationInfo) -> bool:
    return info.data.get("tracing") == "otlp"


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ImportError:
        return False


def csv(value: Any) -> Any:
    """'a, b' as a setting means ['a', 'b']."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class CoreSettings(BaseSettings):
    """What every process of the broker needs.

    Rules about two settings belong to the later one: a rule about the whole would be asked only once
    every field is right, and an operator would learn of the next mistake after mending the last.
    """

    model_config = SettingsConfigDict(extra="ignore", populate_by_name=True, frozen=True)

    environment: str = Field(
        "production",
        alias="BROKER_ENV",
        description="production or development",
        pattern="^(production|development)$",
    )
    tenant: str = Field(
        "default",
        alias="BROKER_TENANT",
        description="1 to 64 of A-Z a-z 0-9 . _ : -",
        pattern=TENANT_PATTERN,
    )
    table_name: str = Field(
        "sandbox-broker",
        alias="DDB_TABLE_NAME",
        description="3 to 255 of A-Z a-z 0-9 . _ -",
        pattern=r"^[A-Za-z0-9._-]{3,255}$",
    )
    status_index: str = Field(
        "StatusIndex",
        alias="DDB_GSI1_NAME",
        description="3 to 255 of A-Z a-z 0-9 . _ -",
        pattern=r"^[A-Za-z0-9._-]{3,255}$",
    )
    track_index: str = Field(
        "TrackIndex",
        alias="DDB_GSI2_NAME",
        description="3 to 255 of A-Z a-z 0-9 . _ -",
        pattern=r"^[A-Za-z0-9._-]{3,255}$",
    )
    endpoint_url: Annotated[str | None, Encrypted] = Field(
        None, alias="DDB_ENDPOINT_URL", description="a URL such as https://host", pattern=r"^https?://"
    )
    region: str = Field(
        "us-east-1", validation_alias=AliasChoices("AWS_REGION", "AWS_DEFAULT_REGION"), min_length=3
    )
    shards: int = Field(4, alias="DDB_SHARDS", ge=1, le=64)
    store_door: Literal["direct", "sdk"] = Field("direct", alias="STORE_DOOR", description="direct or sdk")
    store_timeout_s: Seconds = Field(3, alias="STORE_TIMEOUT_SEC", le=30)
    store_connections: int = Field(64, alias="STORE_CONNECTIONS", ge=1, le=1000)
    log_level: str = Field(
        "INFO",
        alias="LOG_LEVEL",
        description="DEBUG, INFO, WARNING or ERROR",
        pattern="^(DEBUG|INFO|WARNING|ERROR)$",
    )
    drain_timeout_s: Seconds = Field(30, alias="GRACEFUL_SHUTDOWN_TIMEOUT_SEC", le=600)
    boot_budget_ms: float = Field(5000, alias="BOOT_BUDGET_MS", gt=0, le=600_000)
    boot_timeout_s: float = Field(10, alias="BOOT_TIMEOUT_SEC", ge=1, le=600)
    boot_failures: int = Field(0, alias="BOOT_FAILURE_COUNT", ge=0, le=1_000_000)
    boot_state_dir: str = Field("", alias="BOOT_STATE_DIR", max_length=1024)

    tracing: str = Field("off", alias="TRACING", description="off or otlp", pattern="^(off|otlp)$")
    tracing_endpoint: str = Field("http://localhost:4318", alias="OTEL_EXPORTER_OTLP_ENDPOINT")
    tracing_headers: SecretStr = Field(SecretStr(""), alias="OTEL_EXPORTER_OTLP_HEADERS")
    tracing_service: str = Field("", alias="OTEL_SERVICE_NAME")
    tracing_sampler: str = Field("parentbased_always_on", alias="OTEL_TRACES_SAMPLER")
    tracing_share: str = Field("", alias="OTEL_TRACES_SAMPLER_ARG")

    process: ClassVar[str] = "core"
    """What this process is in the table, the log and the guard of its AWS calls."""

    @property
    def development(self) -> bool:
        return self.environment == "development"

    @property
    def traced(self) -> bool:
        return self.tracing != "off"

    def secrets(self) -> list[str]:
        """The secret values of this configuration, for the log mask."""
        values = (getattr(self, name) for name in type(self).model_fields)
        headers = csv(self.tracing_headers.get_secret_value())
        return [
            *(v.get_secret_value() for v in values if isinstance(v, SecretStr)),
            *(unquote(header.partition("=")[2]).strip() for header in headers),
        ]

    @field_validator("tracing")
    @classmethod
    def _installed(cls, tracing: str) -> str:
        if tracing == "otlp" and not all(map(_is_installed, _TRACING_PACKAGES)):
            raise ValueError(
                "is otlp, and what sends spans is not installed: pip install 'sandbox-broker[tracing]' "
                f"(which is {' and '.join(_TRACING_PACKAGES.values())}), or set TRACING=off"
            )
        return tracing

    @field_validator("tracing_endpoint")
    @classmethod
    def _collector(cls, url: str, info: ValidationInfo) -> str:
        """A platform may set this one for everything that runs on it: off, it is none of our business."""
        if not _is_traced(info):
            return url
        try:
            parts = urlsplit(url)
            _ = parts.port
        except ValueError:
            raise ValueError("is no URL") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("must be a URL such as https://collector.example.org:4318, without /v1/traces")
        if parts.path.rstrip("/").endswith("/v1/traces"):
            raise ValueError("must be without /v1/traces, which is added to it")
        if parts.username or parts.password:
            raise ValueError("must hold neither user nor password: OTEL_EXPORTER_OTLP_HEADERS can")
        if parts.scheme == "http" and parts.hostname not in _HERE and _guarded_by(info):
            raise ValueError("is plain http to another machine: set BROKER_ENV=development, or use https")
        return url

    @field_validator("tracing_sampler")
    @classmethod
    def _sampler(cls, name: str, info: ValidationInfo) -> str:
        if _is_traced(info) and name.lower() not in _SAMPLERS:
            raise ValueError(f"must be one of {', '.join(_SAMPLERS)}")
        return name

    @field_validator("tracing_share")
    @classmethod
    def _share(cls, share: str, info: ValidationInfo) -> str:
        """The SDK takes what it does not understand for 1, which is everything."""
        if _is_traced(info) and info.data.get("tracing_sampler", "").lower().endswith("traceidratio"):
            try:
                good = 0 <= float(share) <= 1
            except ValueError:
                good = False
            if not good:
                raise ValueError("must be a share from 0 to 1, such as 0.1")
        return share

    def effective(self) -> dict[str, Any]:
        """The configuration in force by variable name, secrets left out."""
        values = {variable: getattr(self, name) for name, variable in _variables(type(self))}
        shown = {variable: v for variable, v in values.items() if not isinstance(v, SecretStr)}
        return {n: re.sub(r"//[^/@]*@", "//***@", v) if isinstance(v, str) else v for n, v in shown.items()}

    def sources(self) -> dict[str, Source]:
        """Where each value of effective() comes from: `environment` or `default`."""
        given = self.model_fields_set
        return {
            variable: "environment" if name in given else "default"
            for name, variable in _variables(type(self))
            if not isinstance(getattr(self, name), SecretStr)
        }


class ApiSettings(CoreSettings):
    """What the API needs on top."""

    process: ClassVar[str] = "api"

    api_token: Token = Field(SecretStr(""), alias="BROKER_API_TOKEN")
    admin_token: Token = Field(SecretStr(""), alias="BROKER_ADMIN_TOKEN")
    api_key_pepper: SecretStr = Field(SecretStr(""), alias="API_KEY_PEPPER")
    host: str = Field("0.0.0.0", alias="API_HOST")  # noqa: S104  the container's only interface
    port: int = Field(8080, alias="API_PORT", ge=1, le=65535)
    lab_duration_hours: float = Field(4, alias="LAB_DURATION_HOURS", gt=0, le=24 * 30)
    max_extension_hours: float = Field(4, alias="MAX_EXTENSION_HOURS", ge=0, le=24 * 30)
    max_per_holder: int = Field(5, alias="MAX_PER_HOLDER", ge=1, le=100)
    cors_origins: Annotated[list[str], NoDecode] = Field([], alias="CORS_ALLOWED_ORIGINS")
    trusted_proxies: Annotated[list[str], NoDecode] = Field([], alias="TRUSTED_PROXIES")
    limit_per_student: str = Field(
        "60/minute", alias="RATE_LIMIT_PER_STUDENT", description=RATE_FORM, pattern=RATE_LIMIT
    )
    limit_per_credential: str = Field(
        "5000/10 seconds", alias="RATE_LIMIT_PER_CREDENTIAL", description=RATE_FORM, pattern=RATE_LIMIT
    )
    limit_per_address: str = Field(
        "60/minute", alias="RATE_LIMIT_PER_ADDRESS", description=RATE_FORM, pattern=RATE_LIMIT
    )
    request_timeout_s: float = Field(15, alias="REQUEST_TIMEOUT_SEC", ge=1, le=120)
    drain_notice_s: float = Field(5, alias="DRAIN_NOTICE_SEC", ge=0, le=60)
    docs: bool = Field(True, alias="DOCS_ENABLED")
    meta: bool = Field(True, alias="META_ENABLED")

    @property
    def lease_s(self) -> int:
        return round(self.lab_duration_hours * 3600)

    @property
    def max_extension_s(self) -> int:
        return round(self.max_extension_hours * 3600)

    @property
    def peppers(self) -> list[str]:
        """The first is for new keys, every one verifies; none: keys are off."""
        return list(csv(self.api_key_pepper.get_secret_value()))

    def secrets(self) -> list[str]:
        return [*super().secrets(), *self.peppers]

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, values: dict[str, Any]) -> dict[str, Any]:
        listed = {"CORS_ALLOWED_ORIGINS", "TRUSTED_PROXIES", "cors_origins", "trusted_proxies"}
        return {name: csv(value) if name in listed else value for name, value in values.items()}

    @field_validator("admin_token")
    @classmethod
    def _tells_admins_from_tracks(cls, token: SecretStr, info: ValidationInfo) -> SecretStr:
        if token == info.data.get("api_token"):
            raise ValueError("is the same as BROKER_API_TOKEN")
        return token

    @field_validator("api_key_pepper")
    @classmethod
    def _strong_peppers(cls, value: SecretStr) -> SecretStr:
        """Long enough that a stolen table is no list of keys, and none of them twice."""
        peppers = list(csv(value.get_secret_value()))
        if any(len(pepper) < MIN_PEPPER_CHARS for pepper in peppers):
            raise ValueError(f"holds one that is shorter than {MIN_PEPPER_CHARS} characters")
        if any(_EXAMPLE.search(pepper) for pepper in peppers):
            raise ValueError("looks like an example value (a word such as changeme or password)")
        if len(set(peppers)) < len(peppers):
            raise ValueError("holds the same one twice")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, origins: list[str], info: ValidationInfo) -> list[str]:
        if "*" in origins and _guarded_by(info):
            raise ValueError("may be * in development only")
        for origin in origins:
            if not re.fullmatch(r"\*|https?://[^/\s]+", origin):
                raise ValueError("holds what is no origin; one looks like https://labs.example.org")
        return origins

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies(cls, proxies: list[str], info: ValidationInfo) -> list[str]:
        """Whom a caller's address is believed from: everybody would be nobody's limit."""
        if "*" in proxies and _guarded_by(info):
            raise ValueError("may be * in development only")
        for proxy in proxies:
            try:
                _ = proxy == "*" or ip_network(proxy)
            except ValueError:
                raise ValueError("holds what is no address or network, such as 10.0.0.0/16") from None
        return proxies

    @field_validator("drain_notice_s")
    @classmethod
    def _leaves_time_to_drain(cls, notice_s: float, info: ValidationInfo) -> float:
        if notice_s >= info.data.get("drain_timeout_s", float("inf")):
            raise ValueError("leaves nothing of GRACEFUL_SHUTDOWN_TIMEOUT_SEC to finish requests in")
        return notice_s


class WorkerSettings(CoreSettings):
    """What the worker needs on top."""

    process: ClassVar[str] = "worker"

    provider_url: Annotated[str, Encrypted] = Field(
        "",
        alias="CSP_BASE_URL",
        description="a URL such as https://host",
        pattern=r"^https?://[^/]",
        validate_default=True,
    )
    provider_token_file: str | None = Field(None, alias="CSP_API_TOKEN_FILE")
    provider_token_managed: str | None = Field(None, alias="CSP_API_TOKEN_SECRET")
    provider_token: SecretStr = Field(SecretStr(""), alias="CSP_API_TOKEN", validate_default=True)
    host: str = Field("0.0.0.0", alias="WORKER_HOST")  # noqa: S104  the container's only interface
    port: int = Field(9090, alias="WORKER_PORT", ge=1, le=65535)
    grace_minutes: float = Field(30, alias="GRACE_PERIOD_MINUTES", ge=0, le=24 * 60)
    sync_interval_s: Seconds = Field(600, alias="SYNC_INTERVAL_SEC", le=WEEK_S)
    sweep_interval_s: Seconds = Field(300, alias="CLEANUP_INTERVAL_SEC", le=WEEK_S)
    clean_poll_s: Seconds = Field(2, alias="CLEANUP_POLL_SEC", le=60)
    expiry_interval_s: Seconds = Field(300, alias="AUTO_EXPIRY_INTERVAL_SEC", le=WEEK_S)
    purge_interval_s: Seconds = Field(3600, alias="STALE_PURGE_INTERVAL_SEC", le=WEEK_S)
    purge_after_hours: float = Field(24, alias="STALE_PURGE_AFTER_HOURS", gt=0, le=24 * 365)
    gauges_interval_s: Seconds = Field(60, alias="GAUGES_INTERVAL_SEC", le=WEEK_S)
    clean_concurrency: int = Field(20, alias="CLEANUP_CONCURRENCY", ge=1, le=200)
    leader_lease_s: float = Field(15, alias="LEADER_LEASE_SEC", ge=1, le=60)
    clean_lease_s: float = Field(30, alias="CLEANUP_LEASE_SEC", ge=1, le=600)
    failed_retry_hours: float = Field(6, alias="CLEANUP_FAILED_RETRY_HOURS", gt=0, le=24 * 365)
    clean_concurrency_min: int | None = Field(None, alias="CLEANUP_CONCURRENCY_MIN", ge=1, le=200)
    deletes_per_s: float = Field(10, alias="CSP_DELETES_PER_SEC", gt=0, le=1000)
    deletes_per_s_min: float | None = Field(None, alias="CSP_DELETES_PER_SEC_MIN", gt=0, le=1000)
    clean_max_attempts: int = Field(8, alias="CLEANUP_MAX_ATTEMPTS", ge=1, le=100)
    retry_base_s: Seconds = Field(10, alias="CLEANUP_RETRY_BASE_SEC", le=WEEK_S)
    retry_cap_s: Seconds = Field(900, alias="CLEANUP_RETRY_CAP_SEC", le=WEEK_S)
    delete_timeout_s: Seconds = Field(60, alias="CSP_DELETE_TIMEOUT_SEC", le=600)
    read_timeout_s: Seconds = Field(10, alias="CSP_READ_TIMEOUT_SEC", le=600)
    breaker_open_s: Seconds = Field(15, alias="CSP_BREAKER_OPEN_SEC", le=3600)
    read_attempts: int = Field(5, alias="CSP_READ_ATTEMPTS", ge=1, le=20)
    max_body_mb: float = Field(8, alias="CSP_MAX_BODY_MB", gt=0, le=256)
    page_size: int = Field(500, alias="CSP_PAGE_SIZE", ge=2, le=1000)
    services_enabled: bool = Field(False, alias="NIOSXAAS_ENABLED")
    services_shadow: bool = Field(True, alias="NIOSXAAS_SHADOW")
    services_url: Annotated[str | None, Encrypted] = Field(
        None, alias="NIOSXAAS_BASE_URL", description="a URL such as https://host", pattern=r"^https?://[^/]"
    )
    services_timeout_s: Seconds = Field(20, alias="NIOSXAAS_TIMEOUT_SEC", le=600)
    services_email: str = Field("", alias="NIOSXAAS_EMAIL", validate_default=True)
    services_prefix: str = Field("", alias="NIOSXAAS_NAME_FILTER", max_length=255, validate_default=True)
    services_password_file: str | None = Field(None, alias="NIOSXAAS_PASSWORD_FILE")
    services_password_managed: str | None = Field(None, alias="NIOSXAAS_PASSWORD_SECRET")
    services_password: SecretStr = Field(SecretStr(""), alias="NIOSXAAS_PASSWORD", validate_default=True)

    @property
    def grace_s(self) -> int:
        return round(self.grace_minutes * 60)

    @property
    def clean_concurrency_floor(self) -> int:
        """Unset, it yields to a lower CLEANUP_CONCURRENCY: nobody is to set two numbers to lower one."""
        return self.clean_concurrency_min or min(2, self.clean_concurrency)

    @property
    def deletes_per_s_floor(self) -> float:
        return self.deletes_per_s_min or min(0.5, self.deletes_per_s)

    @property
    def max_body_bytes(self) -> int:
        return round(self.max_body_mb * 1024 * 1024)

    @field_validator(
        "provider_token_file",
        "provider_token_managed",
        "services_password_file",
        "services_password_managed",
        mode="before",
    )
    @classmethod
    def _empty_is_unset(cls, value: Any) -> Any:
        return value or None

    @field_validator("provider_token_managed")
    @classmethod
    def _one_reference_to_the_token(cls, managed: str | None, info: ValidationInfo) -> str | None:
        if managed and info.data.get("provider_token_file"):
            raise ValueError("is set, and CSP_API_TOKEN_FILE too: keep one of them")
        return managed

    @field_validator("services_password_managed")
    @classmethod
    def _one_reference_to_the_password(cls, managed: str | None, info: ValidationInfo) -> str | None:
        if managed and info.data.get("services_password_file"):
            raise ValueError("is set, and NIOSXAAS_PASSWORD_FILE too: keep one of them")
        return managed

    @field_validator("provider_token")
    @classmethod
    def _one_token(cls, token: SecretStr, info: ValidationInfo) -> SecretStr:
        """The value, a file or a managed secret. A reference is judged when it is read, not here."""
        if elsewhere := _elsewhere(info, "provider_token", "CSP_API_TOKEN"):
            if token.get_secret_value():
                raise ValueError(f"is set, and {elsewhere} too: keep one of them")
            return token
        why = weak_token(token)
        if why and (_guarded_by(info) or not token.get_secret_value()):
            raise ValueError(why)
        return token

    @field_validator("services_password")
    @classmethod
    def _one_password(cls, password: SecretStr, info: ValidationInfo) -> SecretStr:
        if elsewhere := _elsewhere(info, "services_password", "NIOSXAAS_PASSWORD"):
            if password.get_secret_value():
                raise ValueError(f"is set, and {elsewhere} too: keep one of them")
        elif info.data.get("services_enabled") and not password.get_secret_value():
            raise ValueError("is missing, and NIOSXAAS_ENABLED is true")
        return password

    @field_validator("services_email", "services_prefix")
    @classmethod
    def _needed_for_services(cls, value: str, info: ValidationInfo) -> str:
        """An empty prefix would be every service: nothing to choose by leaving it out."""
        if info.data.get("services_enabled") and not value.strip():
            raise ValueError("is missing, and NIOSXAAS_ENABLED is true")
        return value

    @field_validator("clean_concurrency_min")
    @classmethod
    def _floor_of_concurrency(cls, floor: int | None, info: ValidationInfo) -> int | None:
        if floor is not None and floor > info.data.get("clean_concurrency", floor):
            raise ValueError("is more than CLEANUP_CONCURRENCY")
        return floor

    @field_validator("deletes_per_s_min")
    @classmethod
    def _floor_of_rate(cls, floor: float | None, info: ValidationInfo) -> float | None:
        if floor is not None and floor > info.data.get("deletes_per_s", floor):
            raise ValueError("is more than CSP_DELETES_PER_SEC")
        return floor


def _elsewhere(info: ValidationInfo, name: str, variable: str) -> str | None:
    """The variable that says where this secret is kept, if one does, a refused one included."""
    for suffix, what in (("_file", "_FILE"), ("_managed", "_SECRET")):
        if info.data.get(name + suffix, "refused"):
            return variable + what
    return None


def _variables(settings: type[CoreSettings]) -> Iterator[tuple[str, str]]:
    """Each field's name and the variable that sets it."""
    for name, field in settings.model_fields.items():
        if isinstance(field.validation_alias, AliasChoices):
            yield name, str(field.validation_alias.choices[0])
        elif field.alias is not None:
            yield name, field.alias


def problems_of(error: ValidationError) -> list[str]:
    """One line a problem, by variable name, without the rejected values: they may be secrets."""
    # A variable that was not set is reported under its field's name, one that was under its own.
    variables = dict(_variables(ApiSettings)) | dict(_variables(WorkerSettings))
    forms = _forms(ApiSettings) | _forms(WorkerSettings)
    lines = []
    for entry in error.errors(include_url=False):
        where = ".".join(variables.get(str(part), str(part)) for part in entry["loc"])
        lines.append(f"{where}: {_sentence(entry, forms.get(where, ''))}")
    return lines


def _forms(settings: type[CoreSettings]) -> dict[str, str]:
    """What each variable looks like, where a pattern says so."""
    variables = dict(_variables(settings))
    return {variables[n]: f.description for n, f in settings.model_fields.items() if f.description}


def _sentence(entry: Any, form: str) -> str:
    match entry["type"]:
        case "string_pattern_mismatch" | "too_short" if not entry["input"]:
            return "is missing"
        case "string_pattern_mismatch":
            return f"must be {form}"
        case "too_short":
            return "is missing"
        case "int_parsing" | "float_parsing" | "int_from_float":
            return "must be a number"
    text: str = entry["msg"].removeprefix("Value error, ")
    return (
        text.replace("Input should be", "must be").replace("Value should", "must").replace("String should", "must")
    )
