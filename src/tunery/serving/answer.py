"""One sequence's answer while it grows: text, log-probabilities, and whether it is over."""

from dataclasses import replace

from tunery.serving.requests import FinishReason, Generation, Output, TokenLogprob
from tunery.serving.text import StopMatcher, TextStream, TokenTable


class Answer:
    def __init__(self, generation: Generation, table: TokenTable, eos_ids: frozenset[int], context_length: int) -> None:
        self._id = generation.id
        self._eos_ids = frozenset() if generation.params.ignore_eos else eos_ids
        self._room = min(generation.params.max_tokens, context_length - len(generation.prompt_ids))
        self._stream = TextStream(table.bytes_of)
        self._stops = StopMatcher(generation.params.stop)
        self._sent = 0  # characters given out
        self._pending: list[tuple[int, TokenLogprob]] = []  # the character that the token's first byte belongs to
        self.num_tokens = 0

    def push(self, token_id: int, logprob: TokenLogprob | None, *, is_complete: bool = False) -> Output:
        """Take the next token. `is_complete`: a grammar is satisfied and allows nothing more."""
        self.num_tokens += 1
        if token_id in self._eos_ids:
            return self._end("stop", self._stops.flush())
        if logprob is not None:
            self._pending.append((self._stream.place_of(token_id), logprob))
        text = self._stream.push(token_id)
        free, is_stopped = self._stops.push(text)
        if is_stopped:
            return self._end("stop", free, drop_rest=True)
        if is_complete:
            return self._end("stop", free + self._stops.flush())
        if self.num_tokens >= self._room:
            return self._end("length", free + self._stops.flush())
        self._sent += len(free)
        return self._output(free, self._take(self._sent), None)

    def end(self, reason: FinishReason = "length") -> Output:
        """The end that no token brings: of a request for none, or where another server ends it."""
        return self._end(reason, self._stops.flush())

    def _end(self, reason: FinishReason, text: str, *, drop_rest: bool = False) -> Output:
        self._sent += len(text)
        entries = self._take(self._sent) if drop_rest else self._take(self._stream.num_characters + 2)
        return replace(self._output(text, entries, reason), is_stopped=drop_rest)

    def _take(self, limit: int) -> list[tuple[int, TokenLogprob]]:
        """Entries of the tokens whose text begins before `limit`."""
        taken = [entry for entry in self._pending if entry[0] < limit]
        self._pending = self._pending[len(taken) :]
        return taken

    def _output(self, text: str, entries: list[tuple[int, TokenLogprob]], reason: FinishReason | None) -> Output:
        # Bytes that never became a character have no place of their own: they count to the last one that was sent.
        last = max(0, self._sent - 1) if reason is not None else self._sent
        return Output(
            self._id,
            text,
            tuple(entry for _, entry in entries),
            tuple(min(start, last) for start, _ in entries),
            self.num_tokens,
            finish_reason=reason,
        )
