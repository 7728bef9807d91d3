"""The tables, as the newest migration leaves them. Times are Unix time in seconds."""

from typing import Final

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, Table, Text

from serval.caller.limits import LIMIT_NAMES

metadata = MetaData()

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),  # the public part of the key
    Column("digest", LargeBinary, nullable=False),  # HMAC-SHA256 of the whole key under the pepper
    Column("name", Text, nullable=False),
    Column("scopes", Text, nullable=False),  # separated by spaces
    Column("models", Text),  # separated by spaces; null: all
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    # Limits. Null: the gateway's default; 0: unlimited.
    *(Column(name, BigInteger) for name in LIMIT_NAMES),
    Column("team", Text),  # id of its team
    Column("budgets", Text),  # JSON of `serval.caller.budgets`; null: none
)

teams = Table(
    "teams",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    # Limits of all its keys together. Null or 0: unlimited.
    *(Column(name, BigInteger) for name in LIMIT_NAMES),
    Column("budgets", Text),  # as those of keys
)

daily_tokens = Table(
    "daily_tokens",
    metadata,
    Column(
        "subject", Text, primary_key=True
    ),  # a key's id, `operator-` and the index of a key, or `team:` and an id
    Column("day", Integer, primary_key=True),  # UTC day, counted from 1970
    Column("tokens", BigInteger, nullable=False),
    # Cost: see `COST_UNIT`. Held: of reservations that were not settled.
    *(
        Column(name, BigInteger, nullable=False, server_default="0")
        for name in ("cost", "held_tokens", "held_cost")
    ),
)

# Soft limits that were reported, so that each is reported once in a period.
budget_notices = Table(
    "budget_notices",
    metadata,
    Column("subject", Text, primary_key=True),
    Column("unit", Text, primary_key=True),
    Column("period", Text, primary_key=True),
    Column("day", Integer, primary_key=True),  # the first of the period
)

# Files of batches, whose contents are in a folder.
files = Table(
    "files",
    metadata,
    Column("id", Text, primary_key=True),
    Column("subject", Text, nullable=False),  # the owner, as in `daily_tokens`
    Column("purpose", Text, nullable=False),  # batch or batch_output
    Column("filename", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Index("files_by_subject", "subject", "created_at"),
    Index("files_by_expiry", "expires_at"),
)

# Points in time that a batch has reached; null: not yet.
BATCH_TIMES: Final = (
    "in_progress_at", "finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at",
    "cancelled_at",
)  # fmt: skip
# Sums over the lines of a batch that are recorded.
BATCH_SUMS: Final = (
    "completed", "failed", "input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens",
)  # fmt: skip

batches = Table(
    "batches",
    metadata,
    Column("id", Text, primary_key=True),
    Column("subject", Text, nullable=False),  # the owner, as in `daily_tokens`
    Column("caller", Text, nullable=False),  # the owner's identity at the time, as JSON
    Column("endpoint", Text, nullable=False),
    Column("input_file_id", Text, nullable=False),
    Column("output_file_id", Text),
    Column("error_file_id", Text),
    Column("output_keep_s", BigInteger, nullable=False),  # how long output and error file are kept
    Column("status", Text, nullable=False),  # OpenAI's
    Column("model", Text),
    Column("metadata", Text),  # as JSON
    Column("errors", Text),  # of validation, as JSON: a list of OpenAI's objects
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    *(Column(name, BigInteger) for name in BATCH_TIMES),
    Column("total", BigInteger, nullable=False),
    *(Column(name, BigInteger, nullable=False) for name in BATCH_SUMS),
    # The process that validates the batch or writes its files, and until when nobody else may.
    Column("worker", Text),
    Column("lease_until", BigInteger, nullable=False),
    Index("batches_by_subject", "subject", "created_at"),
    Index("batches_by_status", "status"),
)

# Lines of batches that have not ended.
batch_lines = Table(
    "batch_lines",
    metadata,
    Column("batch_id", Text, primary_key=True),
    Column("number", Integer, primary_key=True),  # in the input file, from 1
    Column("offset", BigInteger, nullable=False),  # place in the input file, in bytes
    Column("length", BigInteger, nullable=False),
    Column("state", Integer, nullable=False),  # see `serval.store.batch_lines`
    Column("worker", Text),
    Column("lease_until", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),  # attempts that the engine failed
    Column("result", LargeBinary),  # line of the output or error file, compressed by zlib
    Index("batch_lines_by_state", "batch_id", "state", "number"),
)

# Orders of administrators about engines.
engine_overrides = Table(
    "engine_overrides",
    metadata,
    Column("url", Text, primary_key=True),
    Column("weight", Text),  # such as 5% or 0.5; null: the one in the list of engines
    Column("drained", Integer, nullable=False),  # 1: it gets no requests
)

# One row. `version` increases with every change of a key, so that readers notice changes cheaply.
key_store = Table(
    "key_store",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("pepper", LargeBinary),  # null: set by SERVAL_KEY_PEPPER
    Column("pepper_check", LargeBinary, nullable=False),
)

responses = Table(
    "responses",
    metadata,
    Column("id", Text, primary_key=True),
    Column("subject", Text, nullable=False),  # the owner, as in `daily_tokens`
    Column("parent", Text),  # id of the response that it continues
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("stored_bytes", BigInteger, nullable=False),  # size of input and body here, and of the row
    Column("whole_bytes", BigInteger, nullable=False),  # their size before compression
    Column("input", LargeBinary, nullable=False),  # list of the request's own items, JSON compressed by zlib
    Column("body", LargeBinary, nullable=False),  # the response object, JSON compressed by zlib
    Index("responses_by_subject", "subject", "stored_bytes"),
    Index("responses_by_expiry", "expires_at"),
)

USAGE_COUNTS: Final = (
    "requests", "prompt_tokens", "cached_tokens", "completion_tokens", "tool_calls", "errors",
    "cost",
)  # fmt: skip

usage = Table(
    "usage",
    metadata,
    Column("subject", Text, primary_key=True),  # as in `daily_tokens`
    Column("model", Text, primary_key=True),
    Column("hour", Integer, primary_key=True),  # UTC hour in which requests came in, counted from 1970
    *(Column(name, BigInteger, nullable=False) for name in USAGE_COUNTS),
    Column("team", Text),  # the team of the key when its first request of the hour was written
    Index("usage_by_hour", "hour"),
)

# The last batch of each process that is in `usage`; see `serval.usage`.
usage_writers = Table(
    "usage_writers",
    metadata,
    Column("writer", Text, primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("hour", Integer, nullable=False),  # of that batch
)
