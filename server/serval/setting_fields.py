"""The fields of the gateway's settings; `serval.settings` reads them."""

import re
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

# As browsers write an origin: in small letters, without a path.
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://(?:\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::\d{1,5})?")


class SettingFields(BaseSettings):
    """One field for each setting, in the order of their page. Times are in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_prefix="SERVAL_", frozen=True, extra="forbid")

    settings_file: Path | None = Field(
        default=None,
        description="TOML file with settings, by these names in lower case without SERVAL_. Its limits and"
        " aliases are read again on changes.",
    )

    host: str = Field(default="127.0.0.1", description="Address the gateway listens on.")
    port: int = Field(
        default=8000, ge=0, le=65535, description="Port the gateway listens on; 0 picks a free one."
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=256,
        description="Processes that serve requests. Each uses one core at most.",
    )
    metrics_directory: Path | None = Field(
        default=None,
        description="Folder where the processes add up their metrics; set by --workers.",
    )
    api_key: SecretStr | None = Field(
        default=None,
        description="The API key that clients must send. If no keys are configured at all, one is made at"
        " each start.",
    )
    api_key_file: Path | None = Field(
        default=None,
        description="File with one accepted API key a line, `#` starts a comment. Read again on changes.",
    )

    key_database: str | None = Field(
        default=None,
        description="Database of API keys (`serval keys`): a path for SQLite, or postgresql://... .",
    )
    key_pepper: SecretStr | None = Field(
        default=None,
        description="Secret that hashes of keys are made with; default: one kept in the key database.",
    )
    key_poll_s: float = Field(
        default=0.3, gt=0, le=0.5, description="How often changes of the key database are looked for."
    )
    key_max_stale_s: float = Field(
        default=30.0, gt=0, description="How long keys are accepted while the key database cannot be read."
    )
    responses_keep_s: int = Field(
        default=86_400,
        ge=0,
        le=10**9,
        description="How long the key database keeps responses of `/v1/responses` for `previous_response_id`,"
        " from when their conversation last went on; 0: none are kept.",
    )
    responses_max_bytes: int = Field(
        default=64 << 20,
        ge=0,
        description="Most bytes of one key's responses, compressed; older ones make room for new ones.",
    )
    usage_keep_days: int = Field(
        default=400,
        ge=0,
        le=10_000,
        description="How many days the key database keeps usage by key, model and hour; 0: none is kept.",
    )
    usage_journal: Path | None = Field(
        default=None,
        description="Folder where usage is kept until it is in the key database, so that a killed process"
        " loses none of what had ended; default: one that lasts until the gateway ends with --workers, or"
        " none.",
    )
    prices_file: Path | None = Field(
        default=None,
        description="TOML file with the prices of tokens by model, for the cost of usage and for budgets in"
        " costs; default: all is free. Read again on changes.",
    )
    budget_webhook: SecretStr | None = Field(
        default=None,
        description="URL to which a notice is posted when the soft limit of a budget is reached; default:"
        " there is only a line in the log, and a metric.",
    )
    seal_secret: SecretStr | None = Field(
        default=None,
        min_length=32,
        description="Secret of at least 32 characters, the same on all replicas: answers of `/v1/responses`"
        " end with the sealed token ids of the conversation if the client includes"
        " `reasoning.encrypted_content`. None are sealed without it.",
    )
    seal_keep_s: int = Field(
        default=30 * 86_400,
        ge=1,
        le=10**9,
        description="How long a sealed turn can be continued.",
    )
    operator_grammars: bool = Field(
        default=False,
        description="Let the operator's own keys send `regex` and `ebnf` (the scope grammar).",
    )

    oidc_issuer: str | None = Field(
        default=None,
        description="Issuer (`iss`) whose tokens are accepted beside API keys; default: none.",
    )
    oidc_audience: str | None = Field(default=None, description="Audience (`aud`) that tokens must be for.")
    oidc_jwks: str | None = Field(
        default=None, description="The issuer's public keys: the https URL of its JWKS, or a file."
    )
    oidc_algorithms: str = Field(
        default="RS256 PS256 ES256 EdDSA", description="Accepted signatures. Never HS* or none."
    )
    oidc_leeway_s: float = Field(
        default=30.0, ge=0, le=600, description="How far the issuer's clock may be off (`exp`, `nbf`)."
    )
    oidc_refresh_s: float = Field(default=300.0, gt=0, description="How often the JWKS is read again.")
    oidc_max_stale_s: float = Field(
        default=3600.0, gt=0, description="How long tokens are accepted while the JWKS cannot be read."
    )
    oidc_caller_claim: str = Field(
        default="sub", description="Claim that names the caller, in logs and limits as oidc:NAME."
    )
    oidc_scope_claim: str = Field(
        default="scope", description="Claim with the scopes: words in one string, or a list."
    )
    oidc_scope_prefix: str = Field(
        default="", description="Prefix of Serval's scopes in that claim, such as serval: ."
    )
    oidc_models_claim: str | None = Field(
        default=None,
        description="Claim that lists the models a token is for; default: tokens are for all models.",
    )

    admin_key: SecretStr | None = Field(
        default=None, description="A key for the admin API beside the database's keys with scope admin."
    )
    admin_host: str = Field(default="127.0.0.1", description="Address the admin API listens on.")
    admin_port: int | None = Field(
        default=None, ge=0, le=65535, description="Port of the admin API; default: there is no admin API."
    )

    console: bool = Field(
        default=True,
        description="Serve the console, pages for a browser, at /console of the admin API's port.",
    )
    console_session_s: int = Field(
        default=8 * 3600, ge=60, le=30 * 86_400, description="How long a sign-in to the console lasts."
    )
    console_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^/?#\s]+/?$",
        description="Address of the console for browsers, https://host, if a proxy does not pass its host on;"
        " default: the host that the browser names.",
    )
    console_oidc_client_id: str | None = Field(
        default=None,
        description="Client id of the console at SERVAL_OIDC_ISSUER, at which people with the scope admin"
        " then sign in; default: they sign in with keys alone.",
    )
    console_oidc_client_secret: SecretStr | None = Field(
        default=None, description="Its client secret, if the provider gave one."
    )
    console_code: SecretStr | None = Field(
        default=None,
        min_length=32,
        description="Code of the link that signs in to the console once; set by `serval serve --console`.",
    )

    metrics_host: str = Field(default="127.0.0.1", description="Address of the metrics' own port.")
    metrics_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Port of `/metrics`, which the API's port then does not serve; default: the API's port.",
    )

    requests_per_minute: int | None = Field(
        default=None,
        ge=1,
        le=10**9,
        description="Requests a minute for keys without a limit of their own; default: no limit.",
    )
    tokens_per_minute: int | None = Field(
        default=None, ge=1, le=10**9, description="The same for tokens, of prompts and answers together."
    )
    concurrent_requests: int | None = Field(
        default=None, ge=1, le=10**9, description="The same for requests that run at once."
    )
    tokens_per_day: int | None = Field(
        default=None, ge=1, le=10**9, description="The same for tokens a day (UTC)."
    )
    reserved_completion_tokens: int = Field(
        default=4096,
        ge=1,
        description="Tokens reserved for an answer without a limit, until its length is known.",
    )
    limits_lease_s: float = Field(
        default=60.0,
        ge=1,
        description="Time after which requests of a dead worker or gateway no longer count as running.",
    )

    limits_socket: Path | None = Field(
        default=None,
        description="Socket of the process that counts for all workers of this host; set by --workers.",
    )
    limits_url: SecretStr | None = Field(
        default=None,
        description="Redis or Valkey that counts for all gateways: redis://, rediss:// or unix://; may hold a"
        " password.",
    )
    limits_timeout_s: float = Field(
        default=0.25,
        gt=0,
        le=5,
        description="How long a request waits for Redis; after that, Redis counts as unreachable.",
    )
    limits_share: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="One divided by the number of gateways: the share of each limit that this one allows by"
        " itself while the shared count is unreachable, and of several engines' free slots that it takes at"
        " a time.",
    )
    limits_grace_s: float = Field(
        default=60.0,
        ge=0,
        description="How long keys and teams with a budget are still served while the shared count is"
        " unreachable.",
    )

    engine_url: str = Field(
        default="http://127.0.0.1:30000",
        description="Base URL of the SGLang engine, or of several, separated by commas: URLs, ranges"
        " (http://engine-{0..7}:30000), names in DNS (dns+http://engines:30000), pairs for prefill and decode"
        " (pd+http://p:30000|http://d:30000?bootstrap_port=8998), each with options such as"
        " ;weight=5%;version=2026-12.",
    )
    engines_file: Path | None = Field(
        default=None, description="File with such URLs instead, read again on changes; `#` starts a comment."
    )
    engine_api_key: SecretStr | None = Field(
        default=None, description="Key that the engine asks for, if any; gateway and engine both read it."
    )
    engine_timeout_s: float = Field(
        default=600.0, gt=0, description="How long start-up waits for the engine."
    )
    engine_connect_timeout_s: float = Field(
        default=5.0, gt=0, description="Longest time to open a connection to the engine."
    )
    engine_stall_timeout_s: float = Field(
        default=600.0, gt=0, description="Longest silence of the engine within a request."
    )
    engine_max_connections: int = Field(
        default=4096, ge=1, description="Largest number of connections to the engine."
    )

    engine_slots: int | None = Field(
        default=None,
        ge=1,
        description="Requests sent to the engine at once, by all workers; default: an eighth more than it"
        " runs at once.",
    )
    queue_limit: int = Field(
        default=1024, ge=1, description="Most requests of a class that wait for the engine, over all workers."
    )
    queue_timeout_s: float = Field(
        default=60.0, gt=0, description="Longest time a request waits for the engine."
    )
    working_set: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of each engine's KV cache for conversations in use; a conversation that finds no"
        " room there waits whole. 0.8 divided by the number of gateways is usual; 0: none waits for room.",
    )
    shed_queue_length: int | None = Field(
        default=None,
        ge=1,
        description="Requests waiting in the engine at which bulk requests are refused, and at twice as many"
        " default ones; unset: a quarter of the requests that the engine runs at once, at least 8.",
    )
    shed_kv_use: float = Field(
        default=0.95, gt=0, description="Share of the KV cache in use at which bulk requests are refused."
    )
    breaker_failures: int = Field(
        default=5, ge=1, description="Failures of the engine in a row after which requests fail at once."
    )
    breaker_open_s: float = Field(
        default=2.0, gt=0, description="How long requests fail at once, until one may try the engine again."
    )
    share_prefix_cache: bool = Field(
        default=False, description="Let keys find each other's prompts in the engine's prefix cache."
    )

    model: Path | None = Field(
        default=None, description="Folder with tokenizer and chat template; default: the engine's model."
    )
    served_model_name: str | None = Field(
        default=None, description="Model name for clients; default: the model folder's name."
    )

    model_aliases: str = Field(
        default="",
        description="Further names by which clients may ask for the model, separated by spaces; `*` is any"
        " text, as in `claude-*`. Answers repeat the name that was asked for.",
    )

    request_head_timeout_s: float = Field(
        default=10.0, gt=0, description="How long the headers of a request may take to arrive."
    )
    request_body_timeout_s: float = Field(
        default=60.0, gt=0, description="How long the body of a request may take to arrive."
    )
    stalled_client_s: float = Field(
        default=60.0,
        gt=0,
        description="A client that reads nothing of its answer for this long is cut off.",
    )
    idle_connection_s: float = Field(
        default=75.0,
        gt=0,
        # Longer than the idle limit of common load balancers, so that they close connections first.
        description="How long a connection without a request is kept.",
    )
    max_connections: int = Field(
        default=20_000,
        ge=1,
        description="Largest number of client connections, divided evenly among workers.",
    )

    max_body_bytes: int = Field(default=32 << 20, ge=1024, description="Largest accepted request body.")
    max_choices: int = Field(default=16, ge=1, le=128, description="Largest accepted `n`.")
    max_batch: int = Field(
        default=128,
        ge=1,
        description="Largest number of choices of one plain completion, over all its prompts.",
    )
    cors_origins: str = Field(
        default="",
        description="Origins whose pages may call the API from a browser, such as https://chat.example,"
        " separated by spaces; `*`: all; default: none.",
    )
    strict_fields: bool = Field(
        default=False, description="Refuse unknown request fields instead of ignoring them."
    )
    non_text_parts: Literal["refuse", "refuse_new", "omit"] = Field(
        default="refuse_new",
        description="Images and other parts of messages that are not text: `refuse` refuses all; `refuse_new`"
        " those of the newest user message, and a short text takes the place of those in tool results and"
        " earlier turns; `omit` refuses none.",
    )
    max_tokens_beyond_context: Literal["cut", "refuse"] = Field(
        default="cut",
        description="A chat's `max_tokens` that is more than the context has left: `cut` to that, because"
        " agents send the same large limit with every turn and would fail near the end of the context; or"
        " `refuse` with a 400, as OpenAI does.",
    )
    render_billing_block: bool = Field(
        default=False,
        description="Show the model the system block `x-anthropic-billing-header` of Claude Code. It may"
        " differ with each request, at the very front, so that the prefix cache finds nothing.",
    )
    first_byte_s: float = Field(
        default=0.05,
        ge=0,
        description="How long a stream waits for the engine before it sends its headers and a ping.",
    )
    ping_interval_s: float = Field(
        default=5.0, gt=0, description="A stream that is silent this long sends `: ping`."
    )
    held_body_bytes: int = Field(
        default=128 << 20,
        ge=0,
        description="Most bytes of request bodies that one worker holds at a time; one key may take half. At"
        " least twice SERVAL_MAX_BODY_BYTES.",
    )
    inline_render_bytes: int = Field(
        default=8192,
        ge=0,
        description="Requests over this size are decoded, rendered and tokenised in a thread.",
    )
    render_threads: int = Field(
        default=2, ge=1, description="Threads that decode, render and tokenise large requests."
    )
    render_queue_limit: int = Field(
        default=256, ge=1, description="Most requests of one worker that wait for such a thread."
    )
    segment_cache_bytes: int = Field(
        default=64 << 20, ge=0, description="Size limit of the cache of tokenised segments."
    )
    cache_debug_bytes: int = Field(
        default=32 << 20,
        ge=0,
        description="Most bytes of recent prompts that one worker holds for callers that ask where the prefix"
        " cache missed (`x-serval-cache-debug`); one key may take a quarter.",
    )
    own_turns_bytes: int = Field(
        default=32 << 20,
        ge=0,
        description="Memory of each worker for the model's own tokens of answers with tool calls, a quarter"
        " of it for one key at most. They are used where a client sends a call back in another form, so that"
        " the prefix cache finds it. 0: none.",
    )
    shutdown_grace_s: float = Field(
        default=30.0, ge=0, description="How long a stop waits for running requests."
    )

    otlp_endpoint: str | None = Field(
        default=None,
        description="OTLP/HTTP receiver of traces, http://HOST:4318; default: OTEL_EXPORTER_OTLP_ENDPOINT.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info",
        description="Lowest level of the log lines that are written; a request's line has level info.",
    )

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, origins: str) -> str:
        if any(origin != "*" and _ORIGIN.fullmatch(origin) is None for origin in origins.split()):
            raise ValueError(
                "an origin has the form https://host or https://host:port, in small letters, without a path"
            )
        return origins

    @property
    def public_url(self) -> str:
        """The gateway's URL for clients on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104  # compared, not bound
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"
