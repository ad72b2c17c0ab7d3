"""What turns rows into inputs: one kind of rules for tables, one for texts, one for recordings."""

from __future__ import annotations

from lepton.data import AudioEncoder, InputEncoder, SequenceEncoder

__all__ = ["ENCODERS", "Encoder"]

Encoder = InputEncoder | SequenceEncoder | AudioEncoder

ENCODERS: dict[str, type[InputEncoder] | type[SequenceEncoder] | type[AudioEncoder]] = {
    "inputs": InputEncoder,
    "sequence": SequenceEncoder,
    "audio": AudioEncoder,
}
"""Their names in `rules.json`."""
