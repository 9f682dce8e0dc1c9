"""Turns rows of token ids into one packed row in which shared beginnings stand once. Needs no torch.

Rows that begin alike form a tree of segments: the system prompt at its root, what differs at its leaves. The packed
row is the tree in depth-first order. The result is the same as for separate rows, gradients included, since a token's
hidden state depends on the tokens before it only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

# Splitting a segment costs every layer another group of products; fewer shared tokens than this are computed twice.
MIN_SAVED_TOKENS = 16


@dataclass(frozen=True)
class Row:
    """One document. `loss_weights[i]` weighs the prediction of token i; 0 where nothing is trained."""

    token_ids: list[int]
    loss_weights: list[float]


@dataclass
class Segment:
    token_ids: list[int]
    start: int  # position of the first token in its documents
    parent: "Segment | None"
    packed: range = range(0)  # where it stands in the packed row
    subtree_end: int = 0
    children: list["Segment"] = field(default_factory=list)

    def ancestors(self) -> list["Segment"]:
        """Root first, without itself."""
        chain: list[Segment] = []
        above = self.parent
        while above is not None:
            chain.append(above)
            above = above.parent
        return chain[::-1]


@dataclass(frozen=True)
class Tree:
    segments: list[Segment]  # depth-first: the order of the packed row
    leaves: list[Segment]  # for each row, the segment its last token stands in

    @property
    def num_tokens(self) -> int:
        return self.segments[-1].packed.stop if self.segments else 0


def build_tree(rows: Sequence[Sequence[int]], *, share: bool = True) -> Tree:
    """The segments of the rows. share=False gives every row a segment of its own: the slow reference."""
    if not share:
        alone = [Segment(list(row), 0, None) for row in rows]
        return _lay_out(alone, alone)
    order = sorted(range(len(rows)), key=lambda index: list(rows[index]))
    leaves: dict[int, Segment] = {}
    roots: list[Segment] = []
    # Each entry: sorted rows that agree up to `agreed`, whose tokens before `start` stand in `parent` and above.
    stack: list[tuple[list[int], int, int, Segment | None]] = [(order, 0, 0, None)]
    while stack:
        members, start, agreed, parent = stack.pop()
        agreed = common_length(rows[members[0]], rows[members[-1]], agreed)
        if len(members) == 1:
            agreed = len(rows[members[0]])
        saved = (len(members) - 1) * (agreed - start)
        if agreed > start and (len(members) == 1 or saved >= MIN_SAVED_TOKENS):
            parent = _add(Segment(list(rows[members[0]][start:agreed]), start, parent), roots)
            start = agreed
        for part in reversed(_partition(rows, members, agreed)):
            if len(rows[part[0]]) > agreed:
                stack.append((part, start, agreed, parent))
                continue
            for index in part:  # these end here
                tail = list(rows[index][start:])
                leaf = _add(Segment(tail, start, parent), roots) if tail or parent is None else parent
                leaves[index] = leaf
    return _lay_out(roots, [leaves[index] for index in range(len(rows))])


def common_length(first: Sequence[int], second: Sequence[int], known: int = 0) -> int:
    """How many tokens both begin with. `known`: so many are known to be alike."""
    shorter = min(len(first), len(second))
    for index in range(known, shorter):
        if first[index] != second[index]:
            return index
    return max(known, shorter)


def _partition(rows: Sequence[Sequence[int]], members: list[int], at: int) -> list[list[int]]:
    """Sorted members in runs with the same token at a position; those that end there come first."""
    parts: list[list[int]] = []
    previous: object = object()
    for index in members:
        token = rows[index][at] if len(rows[index]) > at else None
        if parts and token == previous:
            parts[-1].append(index)
        else:
            parts.append([index])
        previous = token
    return parts


def _add(segment: Segment, roots: list[Segment]) -> Segment:
    (roots if segment.parent is None else segment.parent.children).append(segment)
    return segment


def _lay_out(roots: list[Segment], leaves: list[Segment]) -> Tree:
    """Give every segment its place. Depth-first, so that a subtree is one stretch of the packed row."""
    ordered: list[Segment] = []
    position = 0
    stack = list(reversed(roots))
    while stack:
        segment = stack.pop()
        segment.packed = range(position, position + len(segment.token_ids))
        position = segment.packed.stop
        ordered.append(segment)
        stack.extend(reversed(segment.children))
    for segment in reversed(ordered):
        segment.subtree_end = max([segment.packed.stop, *(child.subtree_end for child in segment.children)])
    return Tree(ordered, leaves)


def packed_positions(leaf: Segment) -> list[int]:
    """Where the tokens of a document stand in the packed row, first to last."""
    return [position for segment in (*leaf.ancestors(), leaf) for position in segment.packed]


@dataclass(frozen=True)
class SegmentGroup:
    """Segments with the same ancestors and similar lengths: one batched product. As positions of the packed row."""

    context: tuple[range, ...]  # the ancestors, root first
    segments: tuple[range, ...]


# What a group costs beside its products, in units of one score, measured on a CPU.
GROUP_COST = 20_000
MAX_GROUP_SCORES = 4_000_000


def segment_groups(tree: Tree) -> list[SegmentGroup]:
    """Groups for the attention: siblings, split by length where padding would cost more than another group."""
    siblings: dict[int, list[Segment]] = {}
    for segment in tree.segments:
        if segment.token_ids:
            siblings.setdefault(id(segment.parent), []).append(segment)
    found: list[SegmentGroup] = []
    for members in siblings.values():
        context = members[0].ancestors()
        seen = sum(len(segment.token_ids) for segment in context)
        members = sorted(members, key=lambda segment: len(segment.token_ids))
        cuts = _cuts([len(segment.token_ids) for segment in members], seen)
        above = tuple(segment.packed for segment in context)
        packed = [segment.packed for segment in members]
        found += [SegmentGroup(above, tuple(packed[start:stop])) for start, stop in cuts]
    return found


def _cuts(lengths: list[int], context: int) -> list[tuple[int, int]]:
    """Where to cut a sorted list of lengths so that the cost of scores and groups is least (dynamic programme)."""
    best = [0.0] + [float("inf")] * len(lengths)
    origin = [0] * (len(lengths) + 1)
    for stop in range(1, len(lengths) + 1):
        longest = lengths[stop - 1]
        for start in range(stop - 1, -1, -1):
            scores = (stop - start) * longest * (longest + context)
            if scores > MAX_GROUP_SCORES and stop - start > 1:
                break
            cost = best[start] + scores + GROUP_COST
            if cost < best[stop]:
                best[stop], origin[stop] = cost, start
    cuts: list[tuple[int, int]] = []
    stop = len(lengths)
    while stop:
        cuts.append((origin[stop], stop))
        stop = origin[stop]
    return cuts[::-1]
