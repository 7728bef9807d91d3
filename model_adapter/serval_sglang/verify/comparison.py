"""Distance of an engine's log-probabilities from the reference model's, on the tokens the engine chose."""

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from serval_sglang.reference import ReferenceModel, Routing
from serval_sglang.verify.engine import Generation
from serval_sglang.verify.index_ties import index_ties, recorded_scores

# float32 changes a router's score by a relative 1e-7 or so per layer. If two experts are closer than this,
# relative to their scores, either choice is right, and later results differ.
ROUTER_TIE = 2e-5


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Place, after `position` tokens, where the engine's preferred token is not the reference's."""

    request: int
    position: int


@dataclass(frozen=True, slots=True)
class Difference:
    """Distance between log-probabilities.

    - `maximum`, `mean`: of the absolute differences, over `count` (position, token) pairs. If no
      log-probabilities were requested: of the difference, in the reference, between the best token and the
      engine's
    - `kl`: mean over `positions` of KL(reference ‖ engine) in nats. All tokens that the engine did not report
      count as a single one, so this is a lower bound of the true KL
    - `ties`: positions excluded because a router's or an indexer's choice was a tie there or before
    - `first_disagreement`: None if the preferred tokens are the same everywhere
    """

    maximum: float
    mean: float
    count: int
    kl: float
    positions: int
    ties: int
    first_disagreement: Disagreement | None


@dataclass(frozen=True, slots=True)
class _Row:
    """Comparison of one position with the reference's log-probabilities [V]."""

    place: Disagreement
    errors: list[float]
    kl: float
    engine_prefers: int
    lost: float  # log-probability, in the reference, of its own best token minus that of `engine_prefers`


def difference(
    generations: Iterable[Generation],
    reference: ReferenceModel,
    *,
    leave_out_ties: bool = False,
    tolerance: float = 0.0,
) -> Difference:
    """Compare every reported log-probability, of output and prompt positions, with the reference's.

    `leave_out_ties` is for engines in float32, see `ROUTER_TIE` and `INDEX_TIE`; in bfloat16 rounding decides
    many more choices than those. The engine's preferred token counts as a disagreement if its
    log-probability in the reference is below the best one's by more than `tolerance`.
    """
    rows: list[_Row] = []
    ties = 0
    for number, generation in enumerate(generations):
        expected, decided = _expectation(generation, reference)
        sequence = [*generation.prompt, *generation.output_ids]
        for position, top in _positions(generation):
            # A token is predicted by the row before it.
            if leave_out_ties and position - 1 >= decided:
                ties += 1
                continue
            place, row = Disagreement(number, position), expected[position - 1]
            rows.append(_chosen(place, sequence[position], row) if top is None else _row(place, top, row))
    return _summary(rows, ties, tolerance)


def merged(parts: Iterable[Difference]) -> Difference:
    """Merge several differences; the first disagreement is that of the first part that has one."""
    parts = list(parts)
    count = sum(part.count for part in parts)
    positions = sum(part.positions for part in parts)
    return Difference(
        maximum=max(part.maximum for part in parts),
        mean=sum(part.mean * part.count for part in parts) / max(count, 1),
        count=count,
        kl=sum(part.kl * part.positions for part in parts) / max(positions, 1),
        positions=positions,
        ties=sum(part.ties for part in parts),
        first_disagreement=next((p.first_disagreement for p in parts if p.first_disagreement), None),
    )


def rounding_in_bfloat16(generations: Iterable[Generation], reference: ReferenceModel) -> Difference:
    """Return how much the reference itself changes in bfloat16, at the positions of `generations`."""
    rounded = copy.copy(reference)
    rounded.compute_dtype = torch.bfloat16
    return difference((_as_reported_by(rounded, generation) for generation in generations), reference)


def _expectation(generation: Generation, reference: ReferenceModel) -> tuple[Tensor, int]:
    """Return log-probabilities [T, V], where row t predicts token t + 1, and the number of rows before the
    first tie."""
    sequence = torch.tensor([[*generation.prompt, *generation.output_ids]])
    with torch.no_grad(), recorded_scores(reference) as scores:
        output = reference.run(sequence)
    ties = torch.zeros(sequence.shape[1], dtype=torch.bool)
    for layer, routing in enumerate(output.routing):
        bias = reference.get_buffer(f"model.layers.{layer}.mlp.router.e_score_correction_bias")
        ties |= _is_tie(routing, bias, reference.config.moe_topk)
    sparse = reference.config.sparse_attention
    if sparse is not None:
        for layer_scores in scores:
            ties |= index_ties(layer_scores, sparse)
    tied_rows = ties.nonzero().flatten().tolist()
    return output.logits[0].float().log_softmax(-1), tied_rows[0] if tied_rows else sequence.shape[1]


def _is_tie(routing: Routing, bias: Tensor, top_k: int) -> Tensor:
    """Return [T], True where the last expert chosen and the first one not chosen are practically equal."""
    scores = routing.scores[0]
    if top_k == scores.shape[-1]:
        return torch.zeros(scores.shape[0], dtype=torch.bool)
    biased, experts = (scores + bias).sort(descending=True)
    boundary = slice(top_k - 1, top_k + 1)
    gap = -biased[:, boundary].diff(dim=-1)[:, 0]
    size = scores.gather(-1, experts[:, boundary]).amax(-1)
    return gap < ROUTER_TIE * size


def _positions(generation: Generation) -> Iterator[tuple[int, Mapping[int, float] | None]]:
    """Yield (tokens before it, reported log-probabilities) for each position but the first."""
    for position, top in enumerate(generation.prompt_top):
        if position:
            assert top, "the engine gave no log-probabilities for a position"
            yield position, top
    for step, top in enumerate(generation.output_top):
        yield len(generation.prompt) + step, top


def _chosen(place: Disagreement, token: int, expected: Tensor) -> _Row:
    lost = float(expected.max() - expected[token])
    return _Row(place, errors=[lost], kl=0.0, engine_prefers=token, lost=lost)


def _row(place: Disagreement, top: Mapping[int, float], expected: Tensor) -> _Row:
    tokens = list(top)
    own = expected[tokens].tolist()
    reported = [top[token] for token in tokens]
    preferred = max(top, key=lambda token: top[token])
    return _Row(
        place,
        errors=[abs(a - b) for a, b in zip(reported, own, strict=True)],
        kl=_divergence(own, reported),
        engine_prefers=preferred,
        lost=float(expected.max()) - float(expected[preferred]),
    )


def _divergence(expected: Sequence[float], reported: Sequence[float]) -> float:
    """Return the KL of distributions given by log-probabilities of some tokens; the rest counts as one."""
    total = sum(math.exp(a) * (a - b) for a, b in zip(expected, reported, strict=True))
    rest, reported_rest = (1.0 - sum(map(math.exp, logs)) for logs in (expected, reported))
    # If the rest is only rounding error, its logarithm is meaningless.
    if rest > 1e-6 and reported_rest > 1e-6:
        total += rest * math.log(rest / reported_rest)
    return max(total, 0.0)


def _summary(rows: Sequence[_Row], ties: int, tolerance: float) -> Difference:
    errors = [error for row in rows for error in row.errors]
    return Difference(
        maximum=max(errors, default=0.0, key=_nan_first),
        mean=sum(errors) / max(len(errors), 1),
        count=len(errors),
        kl=sum(row.kl for row in rows) / max(len(rows), 1),
        positions=len(rows),
        ties=ties,
        first_disagreement=next((row.place for row in rows if not row.lost <= tolerance), None),
    )


def _nan_first(error: float) -> float:
    """Sort key that makes max() return a NaN instead of ignoring it."""
    return math.inf if math.isnan(error) else error


def _as_reported_by(model: ReferenceModel, generation: Generation) -> Generation:
    """Return the generation with the log-probabilities that `model` gives for the same tokens."""
    reported, _ = _expectation(generation, model)

    def replaced(
        tops: Sequence[Mapping[int, float] | None], rows: Tensor
    ) -> list[Mapping[int, float] | None]:
        pairs = zip(tops, rows, strict=False)
        return [top and {token: float(row[token]) for token in top} for top, row in pairs]

    output = replaced(generation.output_top, reported[len(generation.prompt) - 1 :])
    prompt = [None, *replaced(generation.prompt_top[1:], reported)]
    return replace(generation, output_top=output, prompt_top=prompt)
