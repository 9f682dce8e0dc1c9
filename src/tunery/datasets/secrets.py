"""Secrets and personal data that look real: keys by their issuers' forms, card numbers by their check digit, e-mail."""

import re
from collections.abc import Iterator

_KEYS = re.compile(
    r"\bsk-(?:proj-|ant-|live-)?[A-Za-z0-9_-]{20,}"  # OpenAI, Anthropic
    r"|\b(?:sk|rk|pk)_live_[A-Za-z0-9]{16,}"  # Stripe
    r"|\bAKIA[0-9A-Z]{16}\b"  # AWS
    r"|\bgh[pousr]_[A-Za-z0-9]{30,}"  # GitHub
    r"|\bxox[abprs]-[A-Za-z0-9-]{10,}"  # Slack
    r"|\bAIza[0-9A-Za-z_-]{30,}"  # Google
    r"|\bhf_[A-Za-z0-9]{30,}"  # Hugging Face
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
# What each of them begins with: looking for these first spares most texts the slow expression.
_KEY_MARKS = (
    *("sk-", "_live_", "AKIA", "AIza", "hf_", "PRIVATE KEY"),
    *("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "xoxa-", "xoxb-", "xoxp-", "xoxr-", "xoxs-"),
)
_CARD = re.compile(r"(?<![\d.])\d(?:[ -]?\d){12,18}(?![\d.])")
_EMAIL = re.compile(r"\b[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,4}\.[A-Za-z]{2,24}\b")
# Reserved for documentation: nobody lives there.
_EXAMPLE_HOSTS = ("example.com", "example.org", "example.net", ".example", ".test", ".invalid", "localhost")


def find_secrets(text: str) -> Iterator[tuple[str, str]]:
    """(kind, masked) with kind api_key, card_number or email. The mask shows too little to be of use."""
    if any(mark in text for mark in _KEY_MARKS):
        for match in _KEYS.finditer(text):
            yield "api_key", f"{match[0][:6]}…"
    if sum(map(text.count, "0123456789")) >= 13:
        for match in _CARD.finditer(text):
            digits = re.sub(r"\D", "", match[0])
            if _is_card(digits):
                yield "card_number", f"…{digits[-4:]}"
    if "@" in text:
        for match in _EMAIL.finditer(text):
            if not match[0].lower().endswith(_EXAMPLE_HOSTS):
                name, _, host = match[0].partition("@")
                yield "email", f"{name[0]}…@{host}"


def _is_card(digits: str) -> bool:
    """Issuer prefix and Luhn's check digit; one digit over and over passes Luhn but is no card."""
    if digits[0] not in "3456" or len(set(digits)) < 2 or len(digits) > 16:
        return False
    total = 0
    for index, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if index % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0
