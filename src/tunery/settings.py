"""Every setting of the product in one class. Precedence: arguments, then TUNERY_* environment, then the TOML file.

An unknown key is an error in both: a misspelt limit must not pass for a limit. Secrets are masked when printed.
"""

import ipaddress
import logging
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from tunery.texts import LANGUAGES

PREFIX = "TUNERY_"
FORMER = ("engine_kind", "engine_url")  # what start_engine and engine_urls were before
_ORIGIN = re.compile(r"https?://[^/?#@\s*]+")

log = logging.getLogger(__name__)


class SettingsError(ValueError):
    """A setting is unknown or has a value that cannot be used. The message names it and where it came from."""


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", hide_input_in_errors=True, validate_default=True, frozen=True
    )

    # where things are
    home: Path = Path("~/.tunery")  # everything that this machine keeps
    host: str = "127.0.0.1"  # where it listens
    port: int = Field(8000, ge=0, le=65535)  # 0 = any free port
    public_url: str = ""  # the address that stands in mails; "" = http://host:port
    database_url: str = ""  # "" = SQLite in home; postgresql://user:password@host/name
    secrets_key: SecretStr | None = None  # encrypts secrets in the database; None = secrets.key beside it
    blob_url: str = ""  # "" = a folder in home; file:///folder or s3://bucket/prefix
    s3_endpoint: str = ""  # "" = AWS
    s3_access_key_id: str = ""
    s3_secret_access_key: SecretStr = SecretStr("")
    s3_region: str = "us-east-1"
    model_cache: Path | None = None  # base models; None = <home>/models
    catalog: Path | None = None  # a TOML file that adds base models; None = <home>/catalog.toml, where there is one
    prices: Path | None = None  # a TOML file that replaces the shipped price table

    # access
    api_key: SecretStr | None = None  # the first key; None = one is made and printed once
    strict_account_headers: bool = False  # refuse OpenAI-Organization and -Project headers that name nothing known here
    trusted_proxies: Annotated[list[str], NoDecode] = []  # addresses or networks whose X-Forwarded-For and -Proto count
    cors_origins: Annotated[list[str], NoDecode] = []  # whose pages may call the API from a browser; * = any

    # engine and worker
    start_engine: bool = True  # `tunery serve` starts engines: of the first base, of pinned ones, of others when asked
    engine_memory_bytes: int = Field(0, ge=0)  # of all these engines together; 0 = three quarters of the machine's
    cold_start: Literal["wait", "refuse"] = "wait"  # a request of a base without an engine: waits, or 503 Retry-After
    engine_host_url: str = ""  # who starts engines; `tunery serve` tells its own parts
    engine_urls: Annotated[list[str], NoDecode] = []  # others, also before vLLM; in the environment separated by commas
    instructions: Literal["auto", "avx512", "avx2", "plain"] = "auto"  # the newest that products and loops may use
    engine_api_key: SecretStr | None = None  # of all engines; None = `tunery serve` makes one
    worker_concurrency: int = Field(1, ge=1)  # jobs that one worker trains at once
    runner: Literal["process", "ray"] = "process"  # where trainers run: as the worker's processes, or on a Ray cluster
    ray_address: str = "auto"  # HOST:PORT of the cluster's head; auto = the cluster that this machine is a node of
    ray_trainers: int = Field(1, ge=1)  # of each job on Ray; several share its batches
    ray_cpus: int = Field(1, ge=1)  # processors of each trainer on Ray
    ray_gpus: float = Field(0, ge=0)  # graphics cards of each trainer on Ray
    batch_concurrency: int = Field(48, ge=1)  # requests of batches that one worker has answered at once
    lease_s: float = Field(30, gt=0)  # a job whose worker is silent for so long goes back to the queue
    state_interval_s: float = Field(5, gt=0)  # least time between two states of a running job; 2 % of its time at most
    kept_state_days: float = Field(30, gt=0)  # how long a failed job can be resumed
    stored_response_days: float = Field(30, gt=0)  # how long responses can be retrieved and continued
    paused_status: Literal["paused", "queued", "running"] = "paused"  # how a paused job shows to old clients
    evals_without_null: bool = False  # an empty error where a run has none, for clients that check OpenAI's types
    cached_token_rule: Literal["block", "openai"] = "block"  # openai: from 1,024 tokens in steps of 128
    wandb_api_key: SecretStr | None = None
    upstream_base_url: str = "https://api.openai.com/v1"  # where names that point at `openai:MODEL` are passed on to
    upstream_api_key: SecretStr | None = None  # None = nothing is passed on
    judge_url: str = ""  # an OpenAI-compatible endpoint, with /v1, for judge models that this server lacks
    judge_api_key: SecretStr | None = None

    # mail and webhooks
    smtp_host: str = ""  # "" = mail is written to <home>/outbox as .eml files
    mail_language: str = "en"  # `en`, `ja`, or what other file lies in `src/tunery/texts`
    mail_folder_days: float = Field(30, gt=0)  # how long those files stay
    smtp_port: int = Field(587, ge=1, le=65535)
    smtp_username: str = ""
    smtp_password: SecretStr = SecretStr("")
    smtp_security: Literal["none", "starttls", "tls"] = "starttls"
    smtp_from: str = "tunery@localhost"
    webhook_allow_private_addresses: bool = False  # lets webhooks, which clients enter, into private_networks
    private_networks: Annotated[list[str], NoDecode] = Field(
        ["127.0.0.0/8", "::1", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"]
    )  # where judge and upstream may lie beside the internet; webhooks too, if the setting before says so

    # limits of a project that has none of its own; 0 = no limit
    requests_per_minute: int = Field(0, ge=0)
    tokens_per_minute: int = Field(0, ge=0)
    max_running_jobs: int = Field(0, ge=0)
    max_jobs_per_day: int = Field(0, ge=0)
    max_storage_bytes: int = Field(0, ge=0)
    monthly_budget: int = Field(0, ge=0)  # millionths of the price table's currency

    keep_alive_s: int = Field(75, ge=5, le=3600)  # how long an idle connection is kept
    drain_s: int = Field(10, ge=1, le=3600)  # after SIGTERM, how long answers that run may take to end
    access_log: Literal["changes", "all", "none"] = "changes"  # which requests are logged; changes: and every refusal
    log_format: Literal["json", "text"] = "text"

    @field_validator("home", "model_cache", "catalog", "prices", mode="after")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().absolute()

    @field_validator("engine_urls", "trusted_proxies", "cors_origins", "private_networks", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("trusted_proxies", "private_networks", mode="after")
    @classmethod
    def _networks(cls, value: list[str]) -> list[str]:
        for network in value:
            ipaddress.ip_network(network)  # says what is wrong with it
        return value

    @field_validator("mail_language", mode="after")
    @classmethod
    def _language(cls, value: str) -> str:
        if value not in LANGUAGES:
            raise ValueError(f"{value!r} is no language here; there are {', '.join(LANGUAGES)}")
        return value

    @field_validator("cors_origins", mode="after")
    @classmethod
    def _origins(cls, value: list[str]) -> list[str]:
        for origin in value:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin; one looks like https://app.example.com, without a path")
        return value

    @property
    def resolved_database_url(self) -> str:
        return self.database_url or f"sqlite:///{self.home / 'tunery.db'}"

    @property
    def resolved_blob_url(self) -> str:
        return self.blob_url or (self.home / "blobs").as_uri()

    @property
    def engines(self) -> list[str]:
        """The addresses of all engines, without a slash at the end."""
        urls = (url.rstrip("/") for url in self.engine_urls)
        return list(dict.fromkeys(url for url in urls if url))

    @property
    def models_dir(self) -> Path:
        return self.model_cache or self.home / "models"

    @property
    def own_catalog(self) -> Path:
        """The owner's file, which need not be there unless `catalog` names it."""
        return self.catalog or self.home / "catalog.toml"

    @property
    def mail_folder(self) -> Path:
        """Where mails lie as .eml files when there is no SMTP server to send them."""
        return self.home / "outbox"

    @property
    def base_url(self) -> str:
        """Where people reach the server, without a trailing slash and without /v1."""
        return (self.public_url or f"http://{self.host}:{self.port}").rstrip("/")

    def as_environment(self) -> dict[str, str]:
        """The settings as TUNERY_* variables, secrets in clear: what a child process is started with."""
        return {
            PREFIX + name.upper(): _as_text(getattr(self, name))
            for name in type(self).model_fields
            if getattr(self, name) is not None
        }


def _as_text(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, list):
        return ",".join(value)
    return str(value)


def load_settings(config: Path | None = None, **overrides: Any) -> Settings:
    """Read the TOML file (`config`, or tunery.toml in home when there is one) and the environment.

    An override that is None counts as not given. Raises SettingsError.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    known = set(Settings.model_fields)
    named = {name for name in os.environ if name.startswith(PREFIX)}
    stray = sorted(name for name in named if name[len(PREFIX) :].lower() not in known.union(FORMER))
    if stray:
        raise SettingsError(f"Unknown setting in the environment: {', '.join(stray)}.")
    home = Path(given.get("home") or os.environ.get(PREFIX + "HOME") or "~/.tunery").expanduser()
    path = config or home / "tunery.toml"
    from_file = _read_toml(path, must_exist=config is not None)
    former = {name: str(os.environ.get(PREFIX + name.upper()) or from_file.get(name, "")) for name in FORMER}
    if unknown := sorted(set(from_file) - known.union(FORMER)):
        raise SettingsError(f"Unknown setting in {path}: {', '.join(unknown)}.")
    from_environment = {name for name in known if PREFIX + name.upper() in os.environ}
    try:
        settings = Settings(
            **{name: value for name, value in from_file.items() if name in known - from_environment} | given
        )
    except ValidationError as exc:
        problems = [f"{'.'.join(str(part) for part in error['loc'])}: {error['msg']}" for error in exc.errors()]
        raise SettingsError("Invalid settings: " + "; ".join(problems)) from exc
    return _with_former(settings, **former)


def _with_former(settings: Settings, *, engine_kind: str, engine_url: str) -> Settings:
    """Settings of former versions mean what they meant."""
    if engine_kind not in ("", "local", "vllm"):
        raise SettingsError(f"Invalid settings: engine_kind: {engine_kind!r} is neither 'local' nor 'vllm'.")
    if not engine_kind and not engine_url:
        return settings
    log.warning("engine_kind and engine_url are start_engine and engine_urls now. They still work; please rename them.")
    urls = [engine_url, *settings.engine_urls] if engine_url else settings.engine_urls
    starts = settings.start_engine and engine_kind != "vllm" and not engine_url
    return settings.model_copy(update={"start_engine": starts, "engine_urls": urls})


@contextmanager
def told_in_a_sentence() -> Iterator[None]:
    """For a process's entry: a SettingsError ends it with status 1 and its message, not with a traceback."""
    try:
        yield
    except SettingsError as exc:
        sys.exit(str(exc))


def _read_toml(path: Path, *, must_exist: bool) -> dict[str, Any]:
    if not path.exists() and not must_exist:
        return {}
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError as exc:
        raise SettingsError(f"There is no settings file {path}.") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise SettingsError(f"{path} is not valid TOML: {exc}") from exc
