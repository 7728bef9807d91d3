"""The n-gram embedding: mean of the word row and the projected rows of all n-gram tables.

x = ( E[x_t] + Σ_i P_i · T_i[id_i] ) / (1 + tables)

LongCat-Flash-Lite-Sparse may divide the sum only and add E[x_t] as it is (`word_scale` 1).

The sum over tables is one matrix product: the rows side by side times the projections stacked vertically.
Widths may be sharded: if a rank holds the same columns of every table and of every projection, the ranks'
results add up to x.
"""

from torch import Tensor

from serval_kernels.checks import FLOATS, check_tensor
from serval_kernels.ngram_gather import NgramTable, ngram_gather, ngram_gather_reference


def ngram_embed(
    row_ids: Tensor,
    tables: NgramTable,
    projection: Tensor,
    word_rows: Tensor,
    *,
    word_scale: float | None = None,
    in_place: bool = False,
) -> Tensor:
    """Return the mean of word rows and projected table rows, [T, H] in the dtype of `word_rows`.

    - `row_ids` integer [T, tables]: rows of `tables`
    - `tables` [total rows, width]: all tables stacked, placed and coded as `ngram_gather` allows
    - `projection` [tables * width, H]: P_iᵀ stacked in the order of the columns of `row_ids`
    - `word_rows` [T, H]
    - `word_scale`: factor on `word_rows` instead of that of the mean; the projected rows keep theirs
    - `in_place`: write to `word_rows`, so that the gathered rows are the only temporary of this size

    Sums are rounded once: the product accumulates in float32.

    Raises `TypeError` if dtypes differ or `ngram_gather` does not accept them, and `ValueError` if shapes
    or devices do not match, a tensor is not contiguous, or the table cannot be read.
    """
    _check(row_ids, tables, projection, word_rows)
    rows = ngram_gather(row_ids, tables, dtype=word_rows.dtype)
    return _mean(
        rows, projection, word_rows, tables=row_ids.shape[1], word_scale=word_scale, in_place=in_place
    )


def ngram_embed_reference(
    row_ids: Tensor,
    tables: NgramTable,
    projection: Tensor,
    word_rows: Tensor,
    *,
    word_scale: float | None = None,
    in_place: bool = False,
) -> Tensor:
    """`ngram_embed` entirely in torch."""
    _check(row_ids, tables, projection, word_rows)
    rows = ngram_gather_reference(row_ids, tables, dtype=word_rows.dtype)
    return _mean(
        rows, projection, word_rows, tables=row_ids.shape[1], word_scale=word_scale, in_place=in_place
    )


def _mean(
    rows: Tensor,
    projection: Tensor,
    word_rows: Tensor,
    *,
    tables: int,
    word_scale: float | None,
    in_place: bool,
) -> Tensor:
    weight = 1.0 / (1 + tables)
    word_weight = weight if word_scale is None else word_scale
    add_product = word_rows.addmm_ if in_place else word_rows.addmm
    return add_product(rows, projection, beta=word_weight, alpha=weight)


def _check(row_ids: Tensor, tables: NgramTable, projection: Tensor, word_rows: Tensor) -> None:
    check_tensor("word_rows", word_rows, shape=("T", "H"), dtypes=FLOATS, device=row_ids.device)
    values = tables if isinstance(tables, Tensor) else tables.codes
    if row_ids.dim() != 2 or row_ids.shape[0] != word_rows.shape[0]:
        raise ValueError(
            f"row_ids must have shape [{word_rows.shape[0]}, tables] to match word_rows, "
            f"got {list(row_ids.shape)}."
        )
    if values.dim() != 2:
        raise ValueError(f"tables must have shape [rows, width], got {list(values.shape)}.")
    shape = (row_ids.shape[1] * values.shape[1], word_rows.shape[1])
    check_tensor("projection", projection, shape=shape, dtypes=(word_rows.dtype,), device=row_ids.device)
