"""Secrets and personal data that look real: keys by their issuers' forms, card numbers by their check digit, e-mail.

The texts are the client's, so every search takes time in proportion to their length: no expression here repeats what
itself repeats, and what would need one is scanned.
"""

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
    r"|-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----"
)
# What each of them begins with: looking for these first spares most texts the slow expression.
_KEY_MARKS = (
    *("sk-", "_live_", "AKIA", "AIza", "hf_", "PRIVATE KEY"),
    *("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "xoxa-", "xoxb-", "xoxp-", "xoxr-", "xoxs-"),
)
_DIGITS = re.compile(r"[0-9]+")
_MIN_CARD, _MAX_CARD = 13, 19
_HOST = re.compile(r"[A-Za-z0-9.-]{1,320}")
_LOCAL_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._%+-")
_MAX_LOCAL, _MAX_LABEL, _MAX_LABELS = 64, 63, 6
_TOP = re.compile(r"[A-Za-z]{2,24}\b")
# Reserved for documentation: nobody lives there.
_EXAMPLE_HOSTS = ("example.com", "example.org", "example.net", ".example", ".test", ".invalid", "localhost")


def find_secrets(text: str) -> Iterator[tuple[str, str]]:
    """(kind, masked) with kind api_key, card_number or email. The mask shows too little to be of use."""
    if any(mark in text for mark in _KEY_MARKS):
        for match in _KEYS.finditer(text):
            yield "api_key", f"{match[0][:6]}…"
    if sum(map(text.count, "0123456789")) >= _MIN_CARD:
        for digits in _long_numbers(text):
            if _is_card(digits):
                yield "card_number", f"…{digits[-4:]}"
    if "@" in text:
        for name, host in _addresses(text):
            if not host.lower().endswith(_EXAMPLE_HOSTS):
                yield "email", f"{name[0]}…@{host}"


def _long_numbers(text: str) -> Iterator[str]:
    """Groups of digits, one space or hyphen apart, that together have as many digits as a card: the longest first.
    What a decimal point touches is an amount."""
    groups = [(match.start(), match.end()) for match in _DIGITS.finditer(text)]
    first = 0
    while first < len(groups):
        last = _last_group(text, groups, first)
        if last is None:
            first += 1
        else:
            yield "".join(text[start:end] for start, end in groups[first : last + 1])
            first = last + 1


def _last_group(text: str, groups: list[tuple[int, int]], first: int) -> int | None:
    """Where the longest number of a card's length ends that begins with group `first`."""
    start, end = groups[first]
    if text[start - 1 : start] == ".":
        return None
    found, num_digits = None, end - start
    for index in range(first, len(groups)):
        if index > first:
            start, before = groups[index][0], end
            end = groups[index][1]
            if start - before != 1 or text[before] not in " -":
                break
            num_digits += end - start
        if num_digits > _MAX_CARD:
            break
        if num_digits >= _MIN_CARD and text[end : end + 1] != ".":
            found = index
    return found


def _addresses(text: str) -> Iterator[tuple[str, str]]:
    """(name, host) of each mail address, from left to right."""
    done, at = 0, text.find("@")
    while at >= 0:
        host = _host(text, at + 1)
        name = _local(text, done, at) if host else ""
        if host and name:
            yield name, host
            done = at + 1 + len(host)
        at = text.find("@", at + 1)


def _local(text: str, done: int, at: int) -> str:
    """What stands before the `@` and begins at a word's edge."""
    start = at
    while start > max(done, at - _MAX_LOCAL) and text[start - 1] in _LOCAL_CHARS:
        start -= 1
    while start < at and _is_word(text[start - 1 : start]) == _is_word(text[start]):
        start += 1
    return text[start:at]


def _is_word(char: str) -> bool:
    return char.isalnum() or char == "_"


def _host(text: str, start: int) -> str:
    """The longest host name from `start` on: up to six labels, the last of letters. "" for none."""
    match = _HOST.match(text, start)
    found, end = "", start
    for number, label in enumerate(match[0].split(".")[:_MAX_LABELS] if match else ()):
        top = _TOP.match(text, end) if number else None
        if top:
            found = text[start : top.end()]
        if not 1 <= len(label) <= _MAX_LABEL:
            break
        end += len(label) + 1
    return found


def _is_card(digits: str) -> bool:
    """Issuer prefix and Luhn's check digit; one digit over and over passes Luhn but is no card."""
    if digits[0] not in "3456" or len(set(digits)) < 2 or len(digits) > 16:
        return False
    total = 0
    for index, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if index % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0
