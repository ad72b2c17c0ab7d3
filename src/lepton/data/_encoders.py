"""What turns rows into inputs, and rules as JSON: one kind for tables, one for texts, one for recordings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lepton.data._audio_encoder import AudioEncoder
from lepton.data._inputs import InputEncoder
from lepton.data._sequences import SequenceEncoder
from lepton.data._targets import LabelRule
from lepton.errors import CheckpointError

__all__ = ["Encoder", "rules_from_dict", "rules_to_dict"]

Encoder = InputEncoder | SequenceEncoder | AudioEncoder

_ENCODERS: dict[str, type[InputEncoder] | type[SequenceEncoder] | type[AudioEncoder]] = {
    "inputs": InputEncoder,
    "sequence": SequenceEncoder,
    "audio": AudioEncoder,
}
"""Their names where rules are stored."""


def rules_to_dict(encoder: Encoder, rules: Sequence[LabelRule]) -> dict[str, Any]:
    """Return how columns become inputs and labels, as what JSON can hold.

    Args:
        encoder: fitted rules of the inputs.
        rules: rules of the labels.
    """
    kind = next(name for name, kind in _ENCODERS.items() if isinstance(encoder, kind))
    return {kind: encoder.to_dict(), "labels": [asdict(rule) for rule in rules]}


def rules_from_dict(found: Mapping[str, Any], owner: str) -> tuple[Encoder, list[LabelRule]]:
    """Return what `rules_to_dict` described.

    Args:
        found: the description.
        owner: where it was found, for messages.

    Raises:
        CheckpointError: it is damaged.

    Example:
        >>> from lepton.data import describe_columns, read_table
        >>> table = read_table({"age": [20, 40, None]})
        >>> described = rules_to_dict(InputEncoder.fit(table, describe_columns(table)), [])
        >>> encoder, rules = rules_from_dict(described, "this example")
        >>> encoder.names, rules
        (['age'], [])
    """
    try:
        rules = [
            LabelRule(**{**rule, "columns": tuple(rule["columns"]), "classes": tuple(rule["classes"])})
            for rule in found["labels"]
        ]
        kind = next(name for name in _ENCODERS if name in found)
        return _ENCODERS[kind].from_dict(found[kind]), rules
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise CheckpointError(f"{owner} cannot be read: {error!r}.") from error
