"""The tree of segments holds every row whole, once for what is shared."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tunery.training.forward.packing import build_tree, packed_positions, segment_groups

ROWS = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=60), min_size=1, max_size=12)


@given(ROWS, st.booleans())
@settings(max_examples=150, deadline=None)
def test_every_row_can_be_read_back(rows: list[list[int]], share: bool) -> None:
    tree = build_tree(rows, share=share)
    packed = [token for segment in tree.segments for token in segment.token_ids]
    starts = [segment.start + i for segment in tree.segments for i in range(len(segment.token_ids))]
    assert len(packed) == tree.num_tokens <= sum(map(len, rows))
    for row, leaf in zip(rows, tree.leaves, strict=True):
        positions = packed_positions(leaf)
        assert [packed[position] for position in positions] == row
        assert [starts[position] for position in positions] == list(range(len(row)))


@given(ROWS)
@settings(max_examples=100, deadline=None)
def test_a_token_sees_its_document_and_nothing_else(rows: list[list[int]]) -> None:
    tree = build_tree(rows)
    subtree_end = [segment.subtree_end for segment in tree.segments for _ in segment.token_ids]
    for leaf in tree.leaves:
        positions = packed_positions(leaf)
        seen = [j for j in range(positions[-1] + 1) if positions[-1] < subtree_end[j]]
        assert seen == positions


@given(ROWS)
@settings(max_examples=100, deadline=None)
def test_every_token_is_in_one_group(rows: list[list[int]]) -> None:
    tree = build_tree(rows)
    groups = segment_groups(tree)
    assert sorted(p for group in groups for packed in group.segments for p in packed) == list(range(tree.num_tokens))
    above = {segment.packed: tuple(each.packed for each in segment.ancestors()) for segment in tree.segments}
    assert all(above[packed] == group.context for group in groups for packed in group.segments)


def test_a_shared_prompt_stands_once() -> None:
    prompt = list(range(500))
    tree = build_tree([[*prompt, 1000 + i, 2000 + i] for i in range(32)])
    assert tree.num_tokens == 500 + 32 * 2


def test_prompts_of_two_kinds_are_both_shared() -> None:
    first, second = list(range(100)), list(range(200, 300))
    rows = [[*first, 900 + i] for i in range(4)] + [[*second, 900 + i] for i in range(4)]
    assert build_tree(rows).num_tokens == 200 + 8


def test_equal_rows_are_computed_once() -> None:
    assert build_tree([list(range(50))] * 5).num_tokens == 50


def test_a_few_shared_tokens_are_not_worth_a_group() -> None:
    tree = build_tree([[1, 2, 3, 4], [1, 2, 3, 5]])
    assert len(tree.segments) == 2
