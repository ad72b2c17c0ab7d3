"""Texts to numbers and back: byte pairs learned from the training texts, or the tokens of a Hugging Face folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from lepton.errors import CheckpointError, DataError, import_extra, is_whole, require

__all__ = ["END", "PAD", "SPECIAL", "START", "TARGET", "UNKNOWN", "Tokenizer", "check_vocabulary", "fingerprint_of"]

SPECIAL = ("<pad>", "<unknown>", "<start>", "<end>", "<target>")
"""The tokens that stand for no text, in the order of their numbers."""

PAD, UNKNOWN, START, END, TARGET = range(len(SPECIAL))

MIN_FREQUENCY = 2
"""A pair that occurs once in the training texts is not worth a token."""

BYTES = 256

_TRAINED = {"pad": PAD, "start": START, "end": END, "target": TARGET}

_ROLES: dict[str, tuple[str, ...]] = {
    "pad": ("pad_token", "eos_token"),
    "start": ("bos_token", "cls_token", "pad_token"),
    "end": ("eos_token", "sep_token", "pad_token"),
    "target": ("bos_token", "cls_token", "pad_token"),
}
"""Which of a Hugging Face tokenizer's special tokens plays which role, the best first. T5, which reads texts without a
first token and begins its decoder with the one that pads, so gets one that every mask of padding hides."""


class Tokenizer:
    """Cuts texts into tokens, numbered from 0, and puts them together again.

    `train` learns byte pairs (BPE, Sennrich et al., 2016, on bytes): a text is its UTF-8 bytes, and the pair of tokens
    that is most frequent in the training texts becomes a token, again and again. So every text can be written,
    whatever its letters, and `decode(encode([text])[0])` is `text`. The words of special tokens in a text are text.

    Args:
        rules: a `tokenizers.Tokenizer`.
        roles: the numbers of the special tokens: `pad`, `start`, `end`, `target`.

    Attributes:
        pad: the number that fills up short rows.
        start: the number that begins a text.
        end: the number that ends a text.
        target: the number that begins the second of two texts, as of a translation.

    Example:
        >>> tokenizer = Tokenizer.train(["a dog runs", "a dog sleeps"], vocabulary=270)
        >>> [ids] = tokenizer.encode(["a dog naps 🐕"])
        >>> tokenizer.decode([tokenizer.start, *ids, tokenizer.end])
        'a dog naps 🐕'
    """

    def __init__(self, rules: Any, roles: Mapping[str, int]) -> None:
        self._rules = rules
        self._rules.encode_special_tokens = True  # a user who writes "<end>" ends nothing
        self._rules.no_truncation()
        self._rules.no_padding()
        self.pad, self.start = roles["pad"], roles["start"]
        self.end, self.target = roles["end"], roles["target"]

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary: int = 8000) -> Self:
        """Learn the tokens from texts; the same texts in the same order give the same tokens.

        Args:
            texts: the training texts.
            vocabulary: how many tokens there are at most, bytes and special tokens included.

        Raises:
            MissingExtraError: the package tokenizers is not installed.
            ConfigurationError: `vocabulary` has no room for the bytes.
        """
        least = BYTES + len(SPECIAL)
        require(
            is_whole(vocabulary, least), "Tokenizer", "vocabulary", vocabulary, f"a whole number of at least {least}"
        )
        library = _library()
        rules = library.Tokenizer(library.models.BPE())
        rules.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        rules.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocabulary,
            min_frequency=MIN_FREQUENCY,
            special_tokens=list(SPECIAL),
            initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        rules.train_from_iterator(texts, trainer)
        return cls(rules, _TRAINED)

    @classmethod
    def from_folder(cls, folder: Path | str) -> Self:
        """Read the `tokenizer.json` of a Hugging Face folder, with the special tokens that its configuration names.

        Args:
            folder: where `tokenizer.json` and `tokenizer_config.json` lie.

        Raises:
            MissingExtraError: the package tokenizers is not installed.
            DataError: a file is missing or cannot be read, or there is no token for padding, start and end.
        """
        library, path = _library(), Path(folder) / "tokenizer.json"
        try:
            rules = library.Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{str(path)!r} cannot be read: {error}. It is saved with a fast tokenizer.") from error
        except Exception as error:
            raise DataError(
                f"{str(path)!r} describes no tokenizer that the package tokenizers knows: {error}"
            ) from error
        return cls(rules, _roles(Path(folder), rules))

    @property
    def size(self) -> int:
        """How many tokens there are, special ones included."""
        return int(self._rules.get_vocab_size(with_added_tokens=True))

    @property
    def fingerprint(self) -> str:
        """A short hash of all rules: two tokenizers with the same one give the same numbers."""
        return fingerprint_of(self.to_json())

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the numbers of the tokens of each text, without special tokens.

        Raises:
            DataError: something is no text, or holds half a character, as a cut UTF-16 text does.
        """
        try:
            found = self._rules.encode_batch_fast(list(texts), add_special_tokens=False)
        except TypeError as error:
            place, text = next((place, text) for place, text in enumerate(texts) if not _is_text(text))
            raise DataError(
                f"text {place} is {str(text)[:40]!r} ({type(text).__name__}), no valid Unicode text."
            ) from error
        return [encoding.ids for encoding in found]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of some tokens; special tokens are left out."""
        return str(self._rules.decode([int(number) for number in ids], skip_special_tokens=True))

    # -- JSON -------------------------------------------------------------------------------------------------
    def to_json(self) -> str:
        """Return the rules as a text, from which `from_json` makes them again."""
        roles = {"pad": self.pad, "start": self.start, "end": self.end, "target": self.target}
        return json.dumps({"roles": roles, "rules": json.loads(self._rules.to_str())}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the tokenizer that `to_json` wrote.

        Raises:
            MissingExtraError: the package tokenizers is not installed.
            CheckpointError: the text is none that `to_json` wrote.
        """
        library = _library()
        try:
            stored = json.loads(text)
            return cls(library.Tokenizer.from_str(json.dumps(stored["rules"])), stored["roles"])
        except Exception as error:
            raise CheckpointError(f"the stored vocabulary is damaged: {error}.") from error


def fingerprint_of(text: str) -> str:
    """Return a short hash of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_vocabulary(found: str, expected: str, owner: str) -> None:
    """Refuse to go on with a vocabulary other than that of weights.

    Args:
        found: its fingerprint.
        expected: the fingerprint that the weights were trained with.
        owner: what holds them, for the message.

    Raises:
        CheckpointError: this vocabulary is another one.
    """
    if found != expected:
        raise CheckpointError(
            f"{owner} was trained with the vocabulary {expected}, but this one is {found or 'none'}: its numbers mean "
            "other tokens. Use the rules of the run that the weights come from."
        )


def _is_text(value: object) -> bool:
    """Whether it is a text that can be written as UTF-8."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _library() -> Any:
    return import_extra("tokenizers", "text", "a vocabulary of pieces of words")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{str(path)!r} is no JSON: {error}.") from error


def _roles(folder: Path, rules: Any) -> dict[str, int]:
    """Return the number of each special token that the files beside `tokenizer.json` name."""
    named: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            told = _read_json(folder / name)
            words = {key: value.get("content") if isinstance(value, dict) else value for key, value in told.items()}
            named |= {key: word for key, word in words.items() if key.endswith("_token") and isinstance(word, str)}
    found = {}
    for role, keys in _ROLES.items():
        numbers = [number for key in keys if key in named and (number := rules.token_to_id(named[key])) is not None]
        if not numbers:
            raise DataError(
                f"the tokenizer in {str(folder)!r} has no token for {role!r}: its tokenizer_config.json must name one "
                f"of {list(keys)}, but names {sorted(named)}."
            )
        found[role] = numbers[0]
    return found
