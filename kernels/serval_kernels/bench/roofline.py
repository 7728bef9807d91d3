"""Lower bounds: the least that an operation must move and compute, and the time this takes at best.

`embed_work`, `gather_work` and so on count what every algorithm for the operation must read or write once;
`fused_*` and `builtin_*` count the work of a given algorithm. A multiply-add of a matrix product is two
floating-point operations. Small vectors (a bias, the constants of the hash) are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass

from serval_kernels.bench.sizes import Sizes

_ID_BYTES = 8  # int64
_FLOAT32_BYTES = 4
_RING_BYTES = 4  # int32


@dataclass(frozen=True)
class Work:
    """Bytes over the device's memory bus, bytes over the bus to the host, floating-point operations."""

    device_bytes: int = 0
    host_bytes: int = 0
    flops: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.device_bytes + other.device_bytes,
            self.host_bytes + other.host_bytes,
            self.flops + other.flops,
        )


@dataclass(frozen=True)
class Machine:
    """Rates as measured, not as advertised. `host_bytes_per_s` is None if the device is the host."""

    name: str
    device_bytes_per_s: float
    host_bytes_per_s: float | None
    flops_per_s: float

    def floor_s(self, work: Work) -> float:
        """Return the longest of the three times, as if they overlapped perfectly."""
        host_rate = self.host_bytes_per_s or self.device_bytes_per_s
        return max(
            work.device_bytes / self.device_bytes_per_s,
            work.host_bytes / host_rate,
            work.flops / self.flops_per_s,
        )


@dataclass(frozen=True)
class TableFormat:
    """Format and place of a table's rows."""

    value_bytes: int  # 2 for bfloat16, 1 for a code
    scale_bytes: int  # 4 for a row of codes, else 0; scales are always on the device
    on_host: bool

    def rows(self, count: int, width: int) -> Work:
        """Return the work of reading `count` rows."""
        values, scales = count * width * self.value_bytes, count * self.scale_bytes
        if self.on_host:
            return Work(device_bytes=scales, host_bytes=values)
        return Work(device_bytes=values + scales)


def step_work(tokens: int, requests: int, sizes: Sizes) -> Work:
    """Count tokens and those before them in, row ids and the tokens that the next step looks back at out."""
    read = requests * (sizes.order - 1)
    written = min(tokens, read)
    ids = tokens * _ID_BYTES * (1 + sizes.tables)
    return Work(device_bytes=ids + (read + written) * _RING_BYTES)


def gather_work(tokens: int, sizes: Sizes, table: TableFormat, *, value_bytes: int = 2) -> Work:
    """Count row ids and rows in, rows side by side out."""
    ids = tokens * sizes.tables * _ID_BYTES
    out = tokens * sizes.hidden * value_bytes
    return table.rows(tokens * sizes.tables, sizes.width) + Work(device_bytes=ids + out)


def embed_work(tokens: int, sizes: Sizes, table: TableFormat, *, value_bytes: int = 2) -> Work:
    """Count row ids, rows, projections and word rows in, the mean out, and no intermediate results."""
    hidden = tokens * sizes.hidden * value_bytes
    weights = sizes.hidden * sizes.hidden * value_bytes
    ids = tokens * sizes.tables * _ID_BYTES
    rows = table.rows(tokens * sizes.tables, sizes.width)
    return rows + Work(device_bytes=ids + 2 * hidden + weights, flops=2 * tokens * sizes.hidden**2)


def fused_embed_work(tokens: int, sizes: Sizes, table: TableFormat, *, value_bytes: int = 2) -> Work:
    """`embed_work` as this package does it: gathered rows are written once and read once, after the word rows
    have been looked up."""
    hidden = tokens * sizes.hidden * value_bytes
    return embed_work(tokens, sizes, table, value_bytes=value_bytes) + Work(device_bytes=4 * hidden)


def builtin_embed_work(tokens: int, sizes: Sizes, table: TableFormat, *, value_bytes: int = 2) -> Work:
    """`embed_work` as SGLang 0.5.23 does it: ids are transposed and rows gathered first; lookup and product
    write [1 + tables, T, H], and the mean reads it."""
    hidden = tokens * sizes.hidden * value_bytes
    ids = tokens * sizes.tables * _ID_BYTES
    rows = table.rows(tokens * sizes.tables, sizes.width)
    # Word rows are looked up, then copied into place: four passes. Gathered rows are written: one pass.
    lookups = Work(device_bytes=3 * ids + 5 * hidden)
    weights = sizes.hidden * sizes.hidden * value_bytes
    product = Work(device_bytes=hidden + weights + sizes.tables * hidden, flops=2 * tokens * sizes.hidden**2)
    mean = Work(device_bytes=(1 + sizes.tables) * hidden + hidden)
    return rows + lookups + product + mean


def route_work(tokens: int, sizes: Sizes) -> Work:
    """Count logits in; weights, ids and identity weight out."""
    return Work(device_bytes=_FLOAT32_BYTES * tokens * (sizes.experts + 2 * sizes.top_k + 1))


def builtin_route_work(tokens: int, sizes: Sizes) -> Work:
    """`route_work` as SGLang 0.5.23 does it, counting only the passes over [T, experts]: softmax and bias
    read and write them, top-k reads them."""
    return Work(device_bytes=_FLOAT32_BYTES * tokens * 5 * sizes.experts)


def combine_work(tokens: int, sizes: Sizes, *, value_bytes: int = 2) -> Work:
    """Count two matrices in, one out."""
    return Work(device_bytes=tokens * (3 * sizes.hidden * value_bytes + _FLOAT32_BYTES))


def builtin_combine_work(tokens: int, sizes: Sizes, *, value_bytes: int = 2) -> Work:
    """`combine_work` as SGLang 0.5.23 does it in eight passes: a matrix of zeros, the identity part written
    to it, the scaling of the routed part, the sum."""
    return Work(device_bytes=tokens * 8 * sizes.hidden * value_bytes)
