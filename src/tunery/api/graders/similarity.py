"""How alike two texts are, from 0 to 1, by OpenAI's names for the measures. Deterministic and offline."""

from typing import Any


def similarity(metric: str, text: str, reference: str) -> float:
    """`metric` is any of the wire's but cosine, which needs an embedding model."""
    if metric == "fuzzy_match":
        return _fuzzy(text, reference)
    if metric == "bleu":
        return _bleu(text, reference)
    if metric == "gleu":
        return _gleu(text, reference)
    if metric == "meteor":
        return _meteor(text, reference)
    return _rouge(metric, text, reference)


# Each library is imported where it is used: together they take a second, which no other request should pay.


def _fuzzy(text: str, reference: str) -> float:
    from rapidfuzz import fuzz

    return fuzz.WRatio(text, reference) / 100


def _bleu(text: str, reference: str) -> float:
    from sacrebleu import sentence_bleu

    return sentence_bleu(text, [reference]).score / 100


def _gleu(text: str, reference: str) -> float:
    from nltk.translate.gleu_score import sentence_gleu

    words = text.split()
    return float(sentence_gleu([reference.split()], words)) if words else float(not reference.split())


def _meteor(text: str, reference: str) -> float:
    """Exact and stemmed matches. METEOR's third stage, synonyms, needs WordNet, which is not here."""
    from nltk.translate.meteor_score import single_meteor_score

    if not text.split() or not reference.split():
        return float(text.split() == reference.split())
    wordnet: Any = _NoSynonyms()
    return float(single_meteor_score(reference.split(), text.split(), wordnet=wordnet))


class _NoSynonyms:
    def synsets(self, _word: str) -> list:
        return []


def _rouge(metric: str, text: str, reference: str) -> float:
    from rouge_score.rouge_scorer import RougeScorer

    name = "rougeL" if metric == "rouge_l" else metric.replace("_", "")
    return RougeScorer([name], use_stemmer=False).score(reference, text)[name].fmeasure
