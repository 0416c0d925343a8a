"""What an operator can set, by environment variable. Problems are reported all at once."""

import re
from typing import Annotated, Any, Self

from pydantic import AfterValidator, AliasChoices, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

MIN_TOKEN_CHARS = 20
_EXAMPLE = re.compile(r"change.?me|example|placeholder|your.?token|^(.)\1+$|password|12345", re.IGNORECASE)

EXIT_CONFIG = 78
"""EX_CONFIG of sysexits.h: the configuration is wrong, a restart will not help."""

Seconds = Annotated[float, Field(gt=0)]


def weak_token(token: SecretStr) -> str | None:
    """Why this token may not guard anything, or None where it may."""
    text = token.get_secret_value()
    if not text:
        return "is missing"
    if len(text) < MIN_TOKEN_CHARS:
        return f"is shorter than {MIN_TOKEN_CHARS} characters"
    if _EXAMPLE.search(text):
        return "looks like an example value"
    if not re.fullmatch(r"[\x21-\x7e]+", text):
        return "holds characters that a header cannot carry"
    return None


def _strong(token: SecretStr) -> SecretStr:
    if why := weak_token(token):
        raise ValueError(why)
    return token


Token = Annotated[SecretStr, AfterValidator(_strong), Field(validate_default=True)]


def csv(value: Any) -> Any:
    """'a, b' as a setting means ['a', 'b']."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class CoreSettings(BaseSettings):
    """What every process of the broker needs."""

    model_config = SettingsConfigDict(extra="ignore", populate_by_name=True, frozen=True)

    environment: str = Field("production", alias="BROKER_ENV", pattern="^(production|development)$")
    tenant: str = Field("default", alias="BROKER_TENANT", pattern=r"^[A-Za-z0-9._:-]{1,64}$")
    table_name: str = Field("sandbox-broker", alias="DDB_TABLE_NAME", pattern=r"^[A-Za-z0-9._-]{3,255}$")
    status_index: str = Field("StatusIndex", alias="DDB_GSI1_NAME", pattern=r"^[A-Za-z0-9._-]{3,255}$")
    track_index: str = Field("TrackIndex", alias="DDB_GSI2_NAME", pattern=r"^[A-Za-z0-9._-]{3,255}$")
    endpoint_url: str | None = Field(None, alias="DDB_ENDPOINT_URL", pattern=r"^https?://")
    region: str = Field(
        "us-east-1", validation_alias=AliasChoices("AWS_REGION", "AWS_DEFAULT_REGION"), min_length=3
    )
    shards: int = Field(4, alias="DDB_SHARDS", ge=1, le=64)
    store_timeout_s: Seconds = Field(3, alias="STORE_TIMEOUT_SEC", le=30)
    store_connections: int = Field(64, alias="STORE_CONNECTIONS", ge=1, le=1000)
    log_level: str = Field("INFO", alias="LOG_LEVEL", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    drain_timeout_s: Seconds = Field(30, alias="GRACEFUL_SHUTDOWN_TIMEOUT_SEC", le=600)

    @property
    def development(self) -> bool:
        return self.environment == "development"

    @model_validator(mode="after")
    def _plain_http_only_in_development(self) -> Self:
        if self.endpoint_url and self.endpoint_url.startswith("http://") and not self.development:
            raise ValueError("DDB_ENDPOINT_URL is plain http: set BROKER_ENV=development, or use https")
        return self

    def secrets(self) -> list[str]:
        """The secret values of this configuration, for the log mask."""
        values = (getattr(self, name) for name in type(self).model_fields)
        return [v.get_secret_value() for v in values if isinstance(v, SecretStr)]

    def effective(self) -> dict[str, Any]:
        """The configuration in force by variable name, secrets left out."""
        shown = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            alias = field.alias
            if alias is None and isinstance(field.validation_alias, AliasChoices):
                alias = str(field.validation_alias.choices[0])
            if alias is not None and not isinstance(value, SecretStr):
                shown[alias] = value
        return shown


class ApiSettings(CoreSettings):
    """What the API needs on top."""

    api_token: Token = Field(SecretStr(""), alias="BROKER_API_TOKEN")
    admin_token: Token = Field(SecretStr(""), alias="BROKER_ADMIN_TOKEN")
    host: str = Field("0.0.0.0", alias="API_HOST")  # noqa: S104  the container's only interface
    port: int = Field(8080, alias="API_PORT", ge=1, le=65535)
    lab_duration_hours: float = Field(4, alias="LAB_DURATION_HOURS", gt=0, le=24 * 30)
    max_per_holder: int = Field(5, alias="MAX_PER_HOLDER", ge=1, le=100)
    cors_origins: Annotated[list[str], NoDecode] = Field([], alias="CORS_ALLOWED_ORIGINS")
    trusted_proxies: Annotated[list[str], NoDecode] = Field([], alias="TRUSTED_PROXIES")
    limit_per_student: str = Field("60/minute", alias="RATE_LIMIT_PER_STUDENT")
    limit_per_credential: str = Field("5000/10 seconds", alias="RATE_LIMIT_PER_CREDENTIAL")
    limit_per_address: str = Field("60/minute", alias="RATE_LIMIT_PER_ADDRESS")
    drain_notice_s: float = Field(5, alias="DRAIN_NOTICE_SEC", ge=0, le=60)
    docs: bool = Field(True, alias="DOCS_ENABLED")
    meta: bool = Field(True, alias="META_ENABLED")

    @property
    def lease_s(self) -> int:
        return round(self.lab_duration_hours * 3600)

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, values: dict[str, Any]) -> dict[str, Any]:
        listed = {"CORS_ALLOWED_ORIGINS", "TRUSTED_PROXIES", "cors_origins", "trusted_proxies"}
        return {name: csv(value) if name in listed else value for name, value in values.items()}

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        problems = []
        if self.api_token == self.admin_token:
            problems.append("BROKER_API_TOKEN and BROKER_ADMIN_TOKEN are the same")
        if "*" in self.cors_origins and not self.development:
            problems.append("CORS_ALLOWED_ORIGINS may be * in development only")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class WorkerSettings(CoreSettings):
    """What the worker needs on top."""

    provider_url: str = Field("", alias="CSP_BASE_URL", pattern=r"^https?://[^/]", validate_default=True)
    provider_token: SecretStr = Field(SecretStr(""), alias="CSP_API_TOKEN", min_length=1, validate_default=True)
    host: str = Field("0.0.0.0", alias="WORKER_HOST")  # noqa: S104  the container's only interface
    port: int = Field(9090, alias="WORKER_PORT", ge=1, le=65535)
    grace_minutes: float = Field(30, alias="GRACE_PERIOD_MINUTES", ge=0, le=24 * 60)
    sync_interval_s: Seconds = Field(600, alias="SYNC_INTERVAL_SEC")
    sweep_interval_s: Seconds = Field(300, alias="CLEANUP_INTERVAL_SEC")
    clean_poll_s: Seconds = Field(2, alias="CLEANUP_POLL_SEC", le=60)
    expiry_interval_s: Seconds = Field(300, alias="AUTO_EXPIRY_INTERVAL_SEC")
    purge_interval_s: Seconds = Field(3600, alias="STALE_PURGE_INTERVAL_SEC")
    purge_after_hours: float = Field(24, alias="STALE_PURGE_AFTER_HOURS", gt=0)
    gauges_interval_s: Seconds = Field(60, alias="GAUGES_INTERVAL_SEC")
    clean_concurrency: int = Field(20, alias="CLEANUP_CONCURRENCY", ge=1, le=200)
    clean_max_attempts: int = Field(8, alias="CLEANUP_MAX_ATTEMPTS", ge=1, le=100)
    retry_base_s: Seconds = Field(10, alias="CLEANUP_RETRY_BASE_SEC")
    retry_cap_s: Seconds = Field(900, alias="CLEANUP_RETRY_CAP_SEC")
    delete_timeout_s: Seconds = Field(60, alias="CSP_DELETE_TIMEOUT_SEC", le=600)
    read_timeout_s: Seconds = Field(10, alias="CSP_READ_TIMEOUT_SEC", le=600)
    page_size: int = Field(500, alias="CSP_PAGE_SIZE", ge=2, le=1000)

    @property
    def grace_s(self) -> int:
        return round(self.grace_minutes * 60)

    @model_validator(mode="after")
    def _encrypted(self) -> Self:
        if self.provider_url.startswith("http://") and not self.development:
            raise ValueError("CSP_BASE_URL is plain http: set BROKER_ENV=development, or use https")
        return self


def problems_of(error: ValidationError) -> list[str]:
    """One line a problem, by variable name, without the rejected values: they may be secrets."""
    lines = []
    for entry in error.errors(include_input=False, include_url=False):
        where = ".".join(str(part) for part in entry["loc"])
        text = entry["msg"].removeprefix("Value error, ")
        lines += [f"{where}: {text}"] if where else text.split("; ")
    return lines
