"""Operations on chains of drafts in torch, against lists."""

import torch

from serval_sglang.cpu_compat.draft_kernels import (
    accept_run,
    assign_draft_cache_locs_contiguous_cpu,
    assign_extend_cache_locs_cpu,
    assign_req_to_token_pool_cpu,
    build_tree_kernel_efficient_cpu,
    fill_bonus_tokens_cpu,
    verify_tree_greedy_cpu,
)

# Cache place of token p of slot s: 100 * s + p.
TABLE = (torch.arange(4)[:, None] * 100 + torch.arange(20)).int()
SLOTS = torch.tensor([3, 1])


def test_assign_draft_cache_locs_takes_the_places_behind_each_sequence() -> None:
    out = torch.empty(6, dtype=torch.int64)
    assign_draft_cache_locs_contiguous_cpu(SLOTS, TABLE, torch.tensor([5, 9]), out, 20, 1, 3)
    assert out.tolist() == [305, 306, 307, 109, 110, 111]


def test_assign_extend_cache_locs_takes_ragged_runs() -> None:
    out = torch.zeros(7, dtype=torch.int64)
    assign_extend_cache_locs_cpu(SLOTS, TABLE, torch.tensor([5, 9]), torch.tensor([7, 12]), out, 20)
    assert out.tolist() == [305, 306, 109, 110, 111, 0, 0]


def test_assign_req_to_token_pool_writes_ragged_runs() -> None:
    table = TABLE.clone()
    places = torch.tensor([7, 8, 9])
    assign_req_to_token_pool_cpu(SLOTS, table, torch.tensor([5, 9]), torch.tensor([7, 10]), places, 20)
    assert table[3, 4:8].tolist() == [304, 7, 8, 307]
    assert table[1, 8:11].tolist() == [108, 9, 110]
    assert torch.equal(table[[0, 2]], TABLE[[0, 2]])


def test_build_tree_describes_chains() -> None:
    requests, width = 2, 3
    mask = torch.ones(requests * width * width, dtype=torch.bool)
    positions = torch.empty(requests * width, dtype=torch.int64)
    index, following, sibling = (torch.full((requests, width), 7) for _ in range(3))
    nothing = torch.empty(0)
    build_tree_kernel_efficient_cpu(
        nothing, nothing, torch.tensor([5, 9]), mask, positions, index, following, sibling, 1, 2, width, 1
    )
    assert positions.tolist() == [5, 6, 7, 9, 10, 11]
    assert index.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert following.tolist() == [[1, 2, -1]] * 2
    assert sibling.tolist() == [[-1] * 3] * 2
    assert mask.view(2, 3, 3).tolist() == [[[True, False, False], [True, True, False], [True] * 3]] * 2


def test_verify_tree_greedy_accepts_the_longest_run_of_right_drafts() -> None:
    # The third draft of the first request is right, but follows a wrong one.
    candidates = torch.tensor([[4, 5, 6, 7], [1, 2, 3, 4], [9, 8, 8, 8]])
    target = torch.tensor([[5, 9, 7, 1], [2, 3, 4, 5], [0, 8, 8, 8]])
    predicts, accepted = torch.zeros(12, dtype=torch.int32), torch.zeros(3, dtype=torch.int32)
    index = torch.zeros(3, 4, dtype=torch.int32)
    nothing = torch.empty(0)
    verify_tree_greedy_cpu(
        predicts=predicts,
        accept_index=index,
        accept_token_num=accepted,
        candidates=candidates,
        retrive_index=nothing,
        retrive_next_token=nothing,
        retrive_next_sibling=nothing,
        target_predict=target,
    )
    assert accepted.tolist() == [1, 3, 0]
    assert index.tolist() == [[0, 1, -1, -1], [4, 5, 6, 7], [8, -1, -1, -1]]
    assert predicts.tolist() == target.flatten().tolist()


def test_accept_run_without_drafts_accepts_none() -> None:
    index, accepted = torch.zeros(2, 1, dtype=torch.int32), torch.ones(2, dtype=torch.int32)
    accept_run(torch.empty(2, 0, dtype=torch.bool), index, accepted)
    assert accepted.tolist() == [0, 0]
    assert index.tolist() == [[0], [1]]


def test_fill_bonus_tokens_takes_the_last_accepted_token() -> None:
    bonus = torch.zeros(2, dtype=torch.int32)
    fill_bonus_tokens_cpu(torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([1, 3]), bonus, 3)
    assert bonus.tolist() == [1, 6]
