"""Which rows are bad? Rows whose answer is unlikely to models that were trained on the others, and whose label is
unlikely by the rows that read alike; what those models say instead, and rows that ask nearly the same and answer
otherwise.

A job knows its wrong answers by heart after two or three epochs (docs/improve.md has the figures), so it cannot be
asked about its own rows. Two jobs on a half of them each can: each judges the rows that it has not seen. With half the
rows they know little, however; where answers are labels, the rows that read alike know more (docs/improve.md).
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from openai import NotFoundError, PermissionDeniedError

from tunery.chat.examples import Message
from tunery.datasets.answers import said
from tunery.datasets.conversations import as_conversation
from tunery.datasets.features import read_features
from tunery.datasets.similarity import NearIndex, sign
from tunery.domain.answers import is_exact
from tunery.domain.errors import InvalidRequest
from tunery.improve import alike
from tunery.improve.asking import Likelihood, Row, ask_all, examples_of, in_parallel, likelihood, readable_rows
from tunery.improve.jobs import MIN_ROWS, Part, Server, Subject, ended, files_of, halves, make
from tunery.improve.prompt import labels_of
from tunery.texts import say

if TYPE_CHECKING:
    from openai.types.fine_tuning import FineTuningJob

SHORT_ANSWER_TOKENS = 8  # up to here an answer is a label: all of it is right or wrong
MOST_TOKENS = 32  # of the model's own answer, which is asked where answers are short
EXCERPT = 200
TRUST = 0.5  # in what a model says of a label: one that has learnt a few rows by heart is surer than it is right


@dataclass(frozen=True)
class Doubt:
    line: int  # of the training file, 1-based
    question: str
    answer: str
    likelihood: float  # 0..1: of the answer; of a long one of a token of it; of a pair that the better is preferred
    alike: float | None  # 0..1: of the label against the best other one, by rows that read alike; None where none are
    own_answer: str | None  # what the model says itself; None where it was not asked
    own_likelihood: float | None
    near: int | None  # a line that asks the same or nearly so, and answers otherwise

    @property
    def contradicts(self) -> bool:
        """Whether the model that has not seen the row says something else."""
        return self.own_answer is not None and not is_exact(self.own_answer, self.answer)


@dataclass(frozen=True)
class Doubts:
    num_rows: int  # that were judged
    rows: list[Doubt]  # the most doubtful first


def plan(subject: Subject) -> list[Part]:
    """Two halves; those of a learning curve, where that is of all rows too. Raises InvalidRequest where a half is too
    small for a job."""
    if len(subject.rows) < 2 * MIN_ROWS:
        raise InvalidRequest(say("improve.too_few_rows", least=2 * MIN_ROWS, count=len(subject.rows)))
    key = "improve.half" if subject.job.validation_file else "improve.half_of_all"
    return [Part(say(key, n=n), rows) for n, rows in enumerate(halves(len(subject.rows)), 1)]


def num_tokens(subject: Subject) -> int:
    """Of the questions that `read` asks, about: of labels also to an earlier checkpoint, and to an embedding model,
    which costs less."""
    times = 3 if _are_labels(readable_rows(subject.rows)) else 1
    return round(times * subject.tokens_a_row * len(subject.rows))


def start(subject: Subject) -> list[str]:
    """Makes what is not there yet. The ids of all jobs, in the order of `plan`."""
    files = files_of(subject.job)
    return [make(subject, part, files, subject.rows).id for part in plan(subject)]


def read(subject: Subject, job_ids: Sequence[str], *, most: int = 30) -> Doubts:
    """The `most` doubtful rows. Of the jobs that `start` named, which have ended. Raises InvalidRequest where one did
    not succeed, and where no row can be asked."""
    jobs = ended(subject.server, job_ids)
    judge = _judges(subject, [job.fine_tuned_model or "" for job in jobs])
    if not (rows := readable_rows(subject.rows)):
        raise InvalidRequest(say("improve.nothing_to_ask", file_id=subject.job.training_file))
    odds = _odds(subject.server, rows)
    scores, is_short = _scores(subject.server, judge, rows)
    doubted = scores
    if odds is not None:
        before = _judges(subject, [_earlier(subject.server, job) for job in jobs])
        told_before = scores if before == judge else _scores(subject.server, before, rows)[0]
        doubted = TRUST * (scores + told_before) / 2 + odds
    chosen = [int(index) for index in np.argsort(doubted, kind="stable")[:most]]
    own: dict[int, tuple[str, float]] = {}
    if is_short and not any(row.worse or row.tools for row in rows):
        own = _own_answers(subject.server, judge, [rows[index] for index in chosen])
    near = contradicting_lines(subject)
    return Doubts(
        len(rows),
        [
            Doubt(
                line=row.line,
                question=said(row.messages[-1])[:EXCERPT],
                answer=said(row.answer)[:EXCERPT],
                likelihood=float(np.exp(scores[index])),
                alike=None if odds is None else float(1 / (1 + np.exp(-odds[index]))),
                own_answer=own[row.line][0] if row.line in own else None,
                own_likelihood=own[row.line][1] if row.line in own else None,
                near=near.get(row.line),
            )
            for index in chosen
            for row in [rows[index]]
        ],
    )


def _are_labels(rows: list[Row]) -> bool:
    return not any(row.worse or row.tools for row in rows) and len(labels_of(rows)) > 1


def _odds(server: Server, rows: list[Row]) -> np.ndarray | None:
    """Of the labels, by the rows that read alike [rows]; None where answers are no labels, or there is no embedding
    model."""
    if not _are_labels(rows):
        return None
    questions = ["\n".join(said(message) for message in _spoken(row.messages)) for row in rows]
    return alike.odds(server, questions, [said(row.answer) for row in rows])


def _judges(subject: Subject, models: Sequence[str]) -> dict[int, str]:
    """By line, which of the halves' models has not seen it. `models`: in the order of `plan`."""
    learnt = {subject.rows[position].number for position in plan(subject)[0].rows or ()}
    # The row that an odd number leaves over was seen by neither.
    return {row.number: models[int(row.number in learnt)] for row in subject.rows}


def _earlier(server: Server, job: "FineTuningJob") -> str:
    """The newest other checkpoint that nobody has deleted; the job's model where there is none, and where the key may
    not look at models."""
    for point in server.client.fine_tuning.jobs.checkpoints.list(job.id):
        name = point.fine_tuned_model_checkpoint
        if name != job.fine_tuned_model:
            with suppress(NotFoundError, PermissionDeniedError):
                return server.client.models.retrieve(name).id
    return job.fine_tuned_model or ""


def contradicting_lines(subject: Subject) -> dict[int, int]:
    """Of rows that ask the same or nearly the same and answer otherwise, each with one of the others."""
    index, first, answers, found = NearIndex(), dict[int, int](), dict[int, int](), dict[int, int]()
    for example in examples_of(subject.rows):
        features, line = read_features(example), example.line
        asked = sign("\n".join(said(message) for message in _spoken(as_conversation(example).messages)))
        others = {key for key, _ in index.near(asked)} | {first.setdefault(features.input_hash, line)}
        answers[line] = features.answer_hash
        for other in sorted(others):
            if answers[other] != features.answer_hash:
                found.setdefault(line, other)
                found.setdefault(other, line)
        index.add(line, asked)
    return found


def _spoken(messages: list[Message]) -> list[Message]:
    return [message for message in messages if message["role"] not in ("system", "developer")]


def _scores(server: Server, judge: dict[int, str], rows: list[Row]) -> tuple[np.ndarray, bool]:
    """Log-likelihoods [rows] by the model that judges each line, and whether the answers are short."""

    def ask(row: Row) -> tuple[Likelihood, Likelihood | None]:
        of = partial(likelihood, server, judge[row.line], row)
        return of(), of(row.worse) if row.worse else None

    found = in_parallel(ask, rows)
    is_short = float(np.median([one.num_tokens for one, _ in found])) <= SHORT_ANSWER_TOKENS
    alone = [one.logprob if is_short else one.mean for one, _ in found]  # of a long answer a token of it
    pairs = [pair_score(one, worse) if worse else score for score, (one, worse) in zip(alone, found, strict=True)]
    return np.array(pairs), is_short


def pair_score(better: Likelihood, worse: Likelihood) -> float:
    """The log-probability that of the two it is the better answer that is given."""
    return float(-np.logaddexp(0, worse.logprob - better.logprob))


def _own_answers(server: Server, judge: dict[int, str], rows: list[Row]) -> dict[int, tuple[str, float]]:
    """By line: what the model that judges it says, and how likely it finds that."""

    def ask(row: Row) -> tuple[str, float]:
        (own,) = ask_all(server.client, judge[row.line], [row.messages], MOST_TOKENS)
        return own.text, likelihood(
            server, judge[row.line], row, {"role": "assistant", "content": own.text}
        ).probability

    return dict(zip([row.line for row in rows], in_parallel(ask, rows), strict=True))
