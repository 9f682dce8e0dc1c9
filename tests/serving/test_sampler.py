"""The rules of drawing: what is kept from step to step equals what is computed anew."""

from collections import Counter

import pytest
import torch

from tunery.serving.requests import SamplingParams
from tunery.serving.sampler import RowState, describe, sample

V = 50


def shifted(logits: torch.Tensor, params: SamplingParams, counts: Counter[int]) -> torch.Tensor:
    """OpenAI's formula, term by term."""
    result = logits.clone()
    for token, count in counts.items():
        result[token] -= count * params.frequency_penalty + params.presence_penalty
    for token, bias in params.logit_bias.items():
        result[token] += bias
    return result


@pytest.mark.parametrize(
    "rules",
    [
        {"logit_bias": {3: 9.0, 7: -100.0}},
        {"frequency_penalty": 0.7},
        {"presence_penalty": 1.5, "logit_bias": {0: 2.0}},
        {"frequency_penalty": -1.0, "presence_penalty": 0.4, "logit_bias": {49: 5.0}},
    ],
)
def test_bias_and_penalties_are_those_of_the_formula_in_every_step(rules: dict[str, object]) -> None:
    params = SamplingParams(max_tokens=40, temperature=0, top_logprobs=3, **rules)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    row, plain, counts = RowState(params, None), RowState(SamplingParams(40, temperature=0), None), Counter[int]()
    for _ in range(40):
        logits = torch.randn(V, generator=generator)
        expected = int(shifted(logits, params, counts).argmax())
        ruled, free = sample(torch.stack([logits, logits]), [row, plain])
        assert ruled.token_id == expected
        assert free.token_id == int(logits.argmax())
        assert ruled.logprob is not None
        assert ruled.logprob.logprob == pytest.approx(float(torch.log_softmax(logits, -1)[expected]), abs=1e-5)
        row.accept(ruled.token_id)
        counts[ruled.token_id] += 1


def test_rows_are_described_together_as_each_by_itself() -> None:
    logits = torch.randn(6, V, generator=torch.Generator().manual_seed(2))
    normalisers, tokens, num_top = torch.logsumexp(logits, -1), [4, 0, 49, 7, 7, 1], [0, 5, 20, 1, 0, 3]
    together = describe(logits, normalisers, tokens, num_top)
    for index, entry in enumerate(together):
        row = slice(index, index + 1)
        assert describe(logits[row], normalisers[row], tokens[row], num_top[row]) == [entry]
        ranked = logits[index].argsort(descending=True).tolist()
        assert [token for token, _ in entry.top] == ranked[: num_top[index]]
        assert entry.rank == ranked.index(tokens[index]) + 1


def test_what_waits_holds_no_vector_of_the_vocabulary() -> None:
    row = RowState(SamplingParams(8, logit_bias={1: 1.0}), None)
    assert row._shift is None
    sample(torch.zeros(1, V), [row])
    assert row.shift(V) is not None and row.shift(V).data_ptr() == row.shift(V).data_ptr()
