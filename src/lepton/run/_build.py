"""From a resolved configuration and fitted rules to a model: what training and loading share."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_type_hints

import torch
from torch import nn

from lepton.config import Config, Custom, load_class, make_balancer, make_task, trunks
from lepton.data import TEXT_BUCKETS, AudioEncoder, AudioRows, Encoder, InputEncoder, LabelRule, SequenceEncoder
from lepton.errors import ConfigurationError
from lepton.nn import HuggingFaceTrunk, LeptonModel
from lepton.run._adapters import adapted_trunk, hold_still
from lepton.run._prepare import Prepared
from lepton.run._sequences import readers_of
from lepton.run._speech import fit_spectra, speech_heads
from lepton.run._start import begin_from
from lepton.tasks import Regression
from lepton.transfer import separate_head

__all__ = ["build_model", "initial_model"]


def build_model(
    config: Config,
    encoder: Encoder,
    rules: Sequence[LabelRule],
    *,
    trust: bool = False,
    only: str | None = None,
    architecture: Mapping[str, Any] | None = None,
) -> LeptonModel:
    """Return the model that a configuration describes, initialised from its seed.

    Args:
        config: resolved.
        encoder: fitted rules of the inputs.
        rules: rules of the labels.
        trust: whether classes may be imported.
        only: one task, for a model that learns it alone.
        architecture: what a pre-trained trunk's folder says of it; without it, the folder is read, weights included.

    Raises:
        ConfigurationError: the configuration does not fit the trunk.
    """
    torch.manual_seed(config.seed)
    chosen = [rule for rule in rules if only is None or rule.task == only]
    trunk = _trunk_for(config.trunk, encoder, chosen, trust, architecture)
    size = encoder.vocabulary if isinstance(encoder, SequenceEncoder) else 0
    heads = speech_heads(chosen, trunk)
    told: dict[str, Any] = {"vocabulary": size, "mels": getattr(config.trunk, "mels", 0), "trust": trust}
    tasks = [make_task(r.task, config.tasks[r.task], r.classes, head=heads.get(r.task), **told) for r in chosen]
    trunk = adapted_trunk(trunk, config, [rule.task for rule in chosen])
    balance = config.balance
    model = LeptonModel(
        trunk,
        tasks,
        balancer=make_balancer(balance),
        gradients=balance.gradients,
        memory_budget=balance.memory_budget,
    )
    for rule in chosen:
        own = config.tasks[rule.task].adapter
        if own is not None and own.type == "head":
            separate_head(model, rule.task)
    return model


def initial_model(
    prepared: Prepared, *, trust: bool = False, only: str | None = None, resume: bool = False
) -> LeptonModel:
    """Return the model before its first step: built, with the weights that it starts from and the statistics of the
    training labels, and with what of the trunk does not learn held still.

    The statistics are fitted here, and not from the batches as a trainer would: that would decode every picture for
    nothing.

    Args:
        prepared: configuration, rules and rows.
        trust: whether classes may be imported.
        only: one task, for a model that learns it alone.
        resume: whether a checkpoint brings the weights, so that where they started from may be gone.
    """
    model = build_model(prepared.config, prepared.encoder, prepared.rules, trust=trust, only=only)
    taken = set() if resume else begin_from(model, prepared.config, prepared.notes)
    hold_still(model, prepared.config)
    for name in model.task_names:
        task = model.task(name)
        if isinstance(task, Regression) and name not in taken:
            task.fit_statistics(prepared.data["train"].targets[name])
    train = prepared.data["train"]
    if isinstance(train, AudioRows):
        fit_spectra(model, train)
    return model


def _trunk_for(
    section: Any,
    encoder: Encoder,
    rules: Sequence[LabelRule],
    trust: bool,
    architecture: Mapping[str, Any] | None,
) -> nn.Module:
    if isinstance(encoder, SequenceEncoder):
        return _sequence_trunk(section, encoder, rules, trust, architecture)
    if isinstance(encoder, AudioEncoder):
        return _acoustic_trunk(section, encoder, rules, trust)
    return _trunk(section, encoder, trust)


def _acoustic_trunk(section: Any, encoder: AudioEncoder, rules: Sequence[LabelRule], trust: bool) -> nn.Module:
    if isinstance(section, Custom):
        return load_class(section, trust=trust)
    kind: Any = trunks()[section.type]
    options = section.model_dump(exclude={"type"})
    return kind(encoder.sample_rate, readers=readers_of(rules), **options)  # type: ignore[no-any-return]


def _trunk(section: Any, encoder: InputEncoder, trust: bool) -> nn.Module:
    if isinstance(section, Custom):
        return load_class(section, trust=trust)
    kind: Any = trunks()[section.type]
    options = section.model_dump(exclude={"type", "table", "image", "text"})
    parameters = inspect.signature(kind).parameters
    if "knots" in parameters:
        return _table_trunk(kind, options, encoder)  # type: ignore[no-any-return]
    if "table" not in parameters:
        return kind(**options)  # type: ignore[no-any-return]
    tabular = len(encoder.names) > len(encoder.images) + len(encoder.tokens)
    # The mixed trunk's parts are sections of its own section.
    hints = get_type_hints(kind.__init__)
    parts = {name: get_args(hints[name])[0] for name in ("table", "image", "text")}
    table = _table_trunk(parts["table"], section.table.model_dump(), encoder) if tabular else None
    image = parts["image"](**section.image.model_dump()) if encoder.images else None
    text = None
    if encoder.tokens:
        text = parts["text"](encoder.vocabulary, readers={"text": "pooled"}, **section.text.model_dump())
    counts = {"images": max(1, len(encoder.images)), "texts": max(1, len(encoder.tokens))}
    return kind(table, image, text, **counts, **options)  # type: ignore[no-any-return]


def _sequence_trunk(
    section: Any,
    encoder: SequenceEncoder,
    rules: Sequence[LabelRule],
    trust: bool,
    architecture: Mapping[str, Any] | None,
) -> nn.Module:
    if isinstance(section, Custom):
        return load_class(section, trust=trust)
    kind: Any = trunks()[section.type]
    told = {
        "vocabulary": encoder.vocabulary,
        "characters": encoder.characters,
        "readers": readers_of(rules),
        "padding": encoder.pad,
    }
    taken = inspect.signature(kind).parameters
    options = section.model_dump(exclude={"type"})
    if architecture is not None:
        told["config"] = architecture
        options |= {"folder": None, "initialise": False}
    trunk = kind(**{name: value for name, value in told.items() if name in taken}, **options)
    if architecture is None:  # a run that was trained met no longer text
        _check_length(trunk, encoder)
    return trunk  # type: ignore[no-any-return]


def _check_length(trunk: nn.Module, encoder: SequenceEncoder) -> None:
    """Refuse texts that a pre-trained model would refuse in the middle of a training."""
    limit = trunk.limit if isinstance(trunk, HuggingFaceTrunk) else None
    if limit is not None and encoder.max_length > limit:
        raise ConfigurationError(
            f"the trunk's model takes texts of {limit} tokens at most, but data.max_length is {encoder.max_length}: "
            f"set data.max_length={limit}, so that longer texts are cut, or choose another model."
        )


def _table_trunk(kind: Any, options: Mapping[str, Any], encoder: InputEncoder) -> Any:
    texts = {"texts": encoder.texts, "text_buckets": TEXT_BUCKETS} if encoder.texts else {}
    return kind(knots=encoder.knots, categories=encoder.categories, **texts, **options)
