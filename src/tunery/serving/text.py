"""From tokens to text that may be sent: whole characters only, nothing that may yet become a stop sequence."""

import codecs
import re
from collections.abc import Callable

from tokenizers import Tokenizer

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for every byte, as byte-level tokenizers write their vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(256 + index): byte for index, byte in enumerate(others)}


class TokenTable:
    """The bytes of every token. Special tokens have none: they are never shown."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        added = tokenizer.get_added_tokens_decoder()
        is_byte_level = "ByteLevel" in str(tokenizer.decoder)
        alphabet = _byte_alphabet()
        self._bytes: list[bytes] = [b""] * vocab_size
        for text, token_id in tokenizer.get_vocab(with_added_tokens=False).items():
            if token_id < vocab_size:
                self._bytes[token_id] = _byte_level(text, alphabet) if is_byte_level else _sentencepiece(text)
        for token_id, token in added.items():
            if token_id < vocab_size:
                self._bytes[token_id] = b"" if token.special else token.content.encode()
        self.longest = max(map(len, self._bytes))  # bytes of one token
        self._special = {token_id: token.content for token_id, token in added.items() if token.special}

    def bytes_of(self, token_id: int) -> bytes:
        return self._bytes[token_id]

    def shown_bytes(self, token_id: int) -> bytes:
        """The same, with special tokens by their names: what they are in a text that shows them."""
        special = self._special.get(token_id)
        return self._bytes[token_id] if special is None else special.encode()

    def is_text(self, token_id: int) -> bool:
        """Whether its bytes are whole characters."""
        return decodable(self.shown_bytes(token_id))

    def text_of(self, token_id: int) -> str:
        """For people: special tokens by name, and as OpenAI writes them, bytes that are no whole characters."""
        raw = self.shown_bytes(token_id)
        return raw.decode() if decodable(raw) else escaped(raw)


def decodable(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def escaped(raw: bytes) -> str:
    """`\\xf0\\x9f`: the backslashes are characters of the text."""
    return "".join(f"\\x{byte:02x}" for byte in raw)


def _byte_level(text: str, alphabet: dict[str, int]) -> bytes:
    return bytes(alphabet[char] for char in text if char in alphabet)


def _sentencepiece(text: str) -> bytes:
    byte = _BYTE_TOKEN.fullmatch(text)
    return bytes([int(byte[1], 16)]) if byte else text.replace("▁", " ").encode()


class TextStream:
    """Joins tokens' bytes and gives out whole characters. Bytes of a character that never ends are dropped."""

    def __init__(self, bytes_of: Callable[[int], bytes]) -> None:
        """`bytes_of`: the table's, or `shown_bytes` for a text that shows special tokens."""
        self._bytes_of = bytes_of
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.num_characters = 0

    def place_of(self, token_id: int) -> int:
        """The character that the first byte of the token will belong to when it is pushed next."""
        begun, _ = self._decoder.getstate()
        return self.num_characters + (bool(begun) and not _goes_on(begun, self._bytes_of(token_id)[:1]))

    def push(self, token_id: int) -> str:
        text = self._decoder.decode(self._bytes_of(token_id))
        self.num_characters += len(text)
        return text


def _goes_on(begun: bytes, byte: bytes) -> bool:
    """Whether the byte is the next one of the character; else that stays incomplete, and is a sign of its own."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(begun + byte)
    except UnicodeDecodeError:
        return False
    return True


class StopMatcher:
    """Holds back text that may be the beginning of a stop sequence, however tokens cut it."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""

    @property
    def held(self) -> str:
        return self._held

    def push(self, text: str) -> tuple[str, bool]:
        """Text that may be sent, and whether a stop sequence ended it. The stop sequence itself is never given out."""
        if not self._stops:
            return text, False
        self._held += text
        found = [index for index in (self._held.find(stop) for stop in self._stops) if index >= 0]
        if found:
            free, self._held = self._held[: min(found)], ""
            return free, True
        keep = max(overlap(self._held, stop) for stop in self._stops)
        free, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return free, False

    def flush(self) -> str:
        """What was held back for nothing, when the answer ends otherwise."""
        free, self._held = self._held, ""
        return free


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-length:]):
            return length
    return 0
