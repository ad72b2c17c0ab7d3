"""Runs that read one text as a sequence: which columns, which labels, what each task reads, what a search finds."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lepton.config import Config, trunks
from lepton.data import SEQUENCE_KINDS, Column, Kind, LabelRule, SequenceData, SequenceEncoder, Tokenizer, is_list
from lepton.errors import ConfigurationError, DataError
from lepton.evaluate import TaskResult, to_device
from lepton.insight import text_scores
from lepton.nn import LeptonModel, beam_search, greedy_search
from lepton.tasks import Translation
from lepton.train import Callback, TrainState

if TYPE_CHECKING:
    import pyarrow as pa

    from lepton.run._rows import Loader

__all__ = [
    "EXAMPLE_TOKENS",
    "SearchScores",
    "encode_sequences",
    "example_sequences",
    "fit_sequences",
    "predict_sequences",
    "prediction_rows",
    "readers_of",
    "reads_sequences",
    "sequence_rules",
    "text_table",
    "with_search_scores",
]

_READS = {"language_modeling": "causal", "translation": "target", "token_classification": "full"}
_READABLE = ("text", "tokens", "category", "labels", "ignore")
"""Kinds of columns that may be texts, or lists of words."""

_USUAL = ("words", "tokens", "text", "sentence")
"""Names that a column of texts usually has: where several columns could be read, one of these is."""


EXAMPLE_TOKENS = 20
"""Tokens of the row whose operations are counted, and whose second text is as long."""

EXAMPLE_LETTERS = 8

SEARCHED_ROWS = 500
"""Validation texts that are translated after every epoch, greedily, to draw a curve."""


# -- before training ----------------------------------------------------------------------------------------------
def reads_sequences(trunk: str) -> bool:
    """Return whether a trunk, by its name in YAML, reads tokens."""
    kind = trunks().get(trunk)
    return kind is not None and "readers" in inspect.signature(kind).parameters


def sequence_rules(
    config: Config, table: pa.Table, columns: Sequence[Column], rules: Sequence[LabelRule]
) -> tuple[Column, list[LabelRule]] | None:
    """Return the column that is read as a sequence, and the rules with the columns that they read.

    Returns:
        None for a configuration that reads no sequence.

    Raises:
        ConfigurationError: it is not clear which column is read, or a task does not go with it.
    """
    special = [rule for rule in rules if rule.kind in SEQUENCE_KINDS]
    if not special and not reads_sequences(config.trunk.type):
        return None
    if config.trunk.type != "auto" and config.trunk.type != "custom" and not reads_sequences(config.trunk.type):
        raise ConfigurationError(
            f"task {special[0].task!r} predicts something for every position of a text, which the trunk "
            f"{config.trunk.type!r} does not give: choose trunk: auto or transformer."
        )
    source = _source(config, table, columns, rules)
    for rule in special:
        if rule.kind == "language_modeling" and rule.columns not in ((), (source.name,)):
            raise ConfigurationError(
                f"task {rule.task!r}: a language model predicts the text that the trunk reads, {source.name!r}, not "
                f"{rule.columns[0]!r}."
            )
        if rule.kind == "token_classification" and not is_list(table.column(source.name)):
            raise ConfigurationError(
                f"task {rule.task!r} has a tag for each word, so the input must be lists of words; column "
                f"{source.name!r} holds {table.column(source.name).type}."
            )
    targets = {rule.columns[0] for rule in special if rule.kind == "translation"}
    if len(targets) > 1:
        raise ConfigurationError(f"a run translates into one column, not into {sorted(targets)}.")
    if source.name in targets:
        raise ConfigurationError(f"column {source.name!r} is the text that is read and the one that is predicted.")
    kind: Kind = "words" if is_list(table.column(source.name)) else "text"
    read = dataclasses.replace(source, kind=kind)
    return read, [
        dataclasses.replace(rule, columns=(source.name,)) if rule.kind == "language_modeling" else rule
        for rule in rules
    ]


def _source(config: Config, table: pa.Table, columns: Sequence[Column], rules: Sequence[LabelRule]) -> Column:
    by_name = {column.name: column for column in columns}
    told = list(config.data.inputs or {})
    modelled = [name for rule in rules if rule.kind == "language_modeling" for name in rule.columns]
    taken = {name for rule in rules if rule.kind != "language_modeling" for name in rule.columns}
    if not told and modelled:
        told = modelled[:1]
    if len(told) == 1 and told[0] in by_name:
        return by_name[told[0]]
    tagged = any(rule.kind == "token_classification" for rule in rules)
    readable = [
        column
        for column in columns
        if column.name not in taken
        and column.name not in config.data.ignore
        and (is_list(table.column(column.name)) if tagged else column.kind in _READABLE)
    ]
    named = [column for column in readable if column.name in told] if told else readable
    usual = [column for name in _USUAL for column in named if column.name == name]
    if len(named) == 1 or usual:
        return named[0] if len(named) == 1 else usual[0]
    what = "lists of words" if tagged else "text"
    raise ConfigurationError(
        f"these tasks read one column of {what} as a sequence, but there are {[column.name for column in named]}: say "
        "which, data: {inputs: {COLUMN: " + ("words" if tagged else "text") + "}}."
    )


def fit_sequences(config: Config, train: pa.Table, source: str, rules: Sequence[LabelRule]) -> SequenceEncoder:
    """Return the encoder of the sequences, fitted on the training rows."""
    target = next((rule.columns[0] for rule in rules if rule.kind == "translation"), None)
    folder = getattr(config.trunk, "folder", None)
    return SequenceEncoder.fit(
        train,
        source,
        target=target,
        vocabulary=config.data.vocabulary,
        max_length=config.data.max_length,
        tokenizer=None if folder is None else Tokenizer.from_folder(folder),
    )


def readers_of(rules: Iterable[LabelRule]) -> dict[str, str]:
    """Return what each task reads of a trunk's states, as `lepton.nn.TransformerTrunk` takes it."""
    return {rule.task: _READS.get(rule.kind, "pooled") for rule in rules}


def encode_sequences(
    encoder: SequenceEncoder, rules: Sequence[LabelRule], table: pa.Table, notes: list[str], part: str
) -> SequenceData:
    """Return the sequences and labels of a table; what was cut or not seen in training is noted."""
    inputs, lengths = encoder.encode(table)
    lengths = dict(lengths)
    targets: dict[str, Tensor] = {}
    for rule in rules:
        unknown, what = 0, "a tag that training has not"
        if rule.kind == "language_modeling":
            targets[rule.task], lengths[rule.task] = encoder.language_labels(table), lengths["tokens"]
        elif rule.kind == "translation":
            targets[rule.task], lengths[rule.task] = encoder.target_labels(table), lengths["target"]
        elif rule.kind == "token_classification":
            targets[rule.task], unknown = encoder.tag_labels(table, rule.columns[0], rule.classes)
            lengths[rule.task] = lengths["tokens"]
        else:
            targets[rule.task], unknown = rule.encode(table, strict=part == "train")
            what = "what is no number" if rule.kind == "regression" else "a class that training has not"
        if unknown:
            where = "labels" if rule.kind == "token_classification" else f"of {table.num_rows} rows"
            notes.append(f"{rule.task!r}: {unknown} {part} {where} hold {what}.")
    for name, number in encoder.truncated(table).items():
        if number:
            notes.append(f"column {name!r}: {number} of {table.num_rows} {part} texts are cut at data.max_length.")
    for name, number in encoder.unseen(table).items():
        notes.append(
            f"column {name!r}: {number} of {table.num_rows} {part} rows hold a character that training has not."
        )
    return SequenceData(inputs, targets, lengths=lengths)


def example_sequences(encoder: SequenceEncoder, rows: int) -> dict[str, Tensor]:
    """Return inputs of rows of `EXAMPLE_TOKENS` tokens, for what depends on shapes only."""
    tokens = torch.full((rows, EXAMPLE_TOKENS), 5)
    found = {"tokens": tokens}
    if encoder.target is not None:
        found["target"] = tokens.clone()
    if encoder.characters:
        found["characters"] = torch.ones(rows, EXAMPLE_TOKENS, EXAMPLE_LETTERS, dtype=torch.int64)
    return found


def prediction_rows(encoder: SequenceEncoder, table: pa.Table) -> SequenceData:
    """Return the sequences of rows to predict: a text that is to be found is empty until it is."""
    if encoder.target is not None and encoder.target not in table.column_names:
        table = table.append_column(encoder.target, [[""] * table.num_rows])
    return encode_sequences(encoder, [], table, [], "predicted")


# -- after training -----------------------------------------------------------------------------------------------
@torch.no_grad()
def predict_sequences(
    model: LeptonModel, encoder: SequenceEncoder, rules: Sequence[LabelRule], table: pa.Table, loader: Loader
) -> dict[str, Any]:
    """Return the predictions of all tasks for the rows of a table, column by column.

    Args:
        model: the model, in eval mode.
        encoder: fitted rules of the sequences.
        rules: the tasks to predict.
        table: the rows, for words and labels.
        loader: gives the same rows in order, without labels.
    """
    found: dict[str, list[Any]] = {rule.task: [] for rule in rules}
    labels = encoder.language_labels(table)
    first = 0
    for inputs, _ in loader:
        moved = to_device(inputs, model.device)
        outputs, _ = model(moved)
        assert isinstance(inputs, Mapping)
        size, length = inputs["tokens"].shape
        own = labels[first : first + size, :length].long().to(model.device)
        for rule in rules:
            if rule.kind == "language_modeling":
                found[rule.task] += _perplexities(outputs[rule.task], own)
            elif rule.kind == "translation":
                found[rule.task] += _translated(model, rule.task, moved["tokens"], encoder)
            else:
                said = {key: value.cpu() for key, value in model.task(rule.task).predict(outputs[rule.task]).items()}
                found[rule.task].append(said)
        first += size
    columns: dict[str, Any] = {}
    for rule in rules:
        if rule.kind == "language_modeling":
            columns[rule.predicted[0]] = found[rule.task]
        elif rule.kind == "translation":
            columns[rule.task] = found[rule.task]
        elif rule.kind == "token_classification":
            words = [
                text.split() if isinstance(text, str) else text for text in table.column(encoder.source).to_pylist()
            ]
            columns[rule.task] = _tags(rule, found[rule.task], words)
        else:
            parts = found[rule.task]
            columns |= rule.decode({key: torch.cat([part[key] for part in parts]) for key in parts[0]})
    return columns


def _perplexities(logits: Tensor, labels: Tensor) -> list[float]:
    """Return for each row exp of the mean negative log-probability of its tokens."""
    losses = F.cross_entropy(logits.transpose(1, 2).float(), labels, ignore_index=-100, reduction="none")
    return (losses.sum(1) / (labels != -100).sum(1)).exp().tolist()


def _translated(model: LeptonModel, task: str, tokens: Tensor, encoder: SequenceEncoder) -> list[str]:
    kind = model.task(task)
    assert isinstance(kind, Translation)
    return [encoder.decode(ids) for ids in beam_search(model, task, tokens, beam=kind.beam)]


def _tags(rule: LabelRule, said: Sequence[Mapping[str, Tensor]], texts: Sequence[Sequence[str] | None]) -> list[Any]:
    """Return the tags of each row's words; None for words beyond the longest sequence that is read."""
    rows = [row for part in said for row in part["label"].tolist()]
    found = []
    for labels, words in zip(rows, texts, strict=True):
        number = len(words or ())
        tags: list[str | None] = [rule.classes[label] for label in labels[1 : number + 1]]
        found.append(tags + [None] * (number - len(tags)))
    return found


@torch.no_grad()
def with_search_scores(
    model: LeptonModel,
    encoder: SequenceEncoder,
    rules: Sequence[LabelRule],
    table: pa.Table,
    results: Mapping[str, TaskResult],
) -> dict[str, TaskResult]:
    """Return the results with what only a search can measure: BLEU and chrF of translations.

    Args:
        model: the model; it is put into eval mode.
        encoder: fitted rules of the sequences.
        rules: the run's tasks; those that the model does not have are left out.
        table: the rows that were evaluated.
        results: task -> result, to be completed.

    Raises:
        MissingExtraError: sacrebleu is not installed.
    """
    from lepton.run._rows import EVALUATION_SEQUENCES

    found = dict(results)
    wanted = [rule for rule in rules if rule.kind == "translation" and rule.task in results]
    if not wanted:
        return found
    training = model.training
    model.eval()
    inputs, _ = encoder.encode(table)
    for rule in wanted:
        said: list[str] = []
        order = (inputs["tokens"] != 0).sum(1).argsort(stable=True)
        for rows in torch.split(order, EVALUATION_SEQUENCES):
            tokens = inputs["tokens"][rows].long()
            tokens = tokens[:, : int((tokens != 0).sum(1).max())]
            said += _translated(model, rule.task, tokens.to(model.device), encoder)
        references = [text or "" for text in table.column(rule.columns[0]).to_pylist()]
        in_order = [text for _, text in sorted(zip(order.tolist(), said, strict=True))]
        scores = text_scores(in_order, references)
        metrics = {**found[rule.task].metrics, "bleu": scores.bleu, "chrf": scores.chrf}
        found[rule.task] = dataclasses.replace(found[rule.task], metrics=metrics)
    model.train(training)
    return found


def text_table(texts: Sequence[str], encoder: SequenceEncoder) -> pa.Table:
    """Return a table whose column of texts holds these; where words are read, a text is parted at its spaces.

    Raises:
        DataError: what is no text.
    """
    import pyarrow as pa

    wrong = [text for text in texts if not isinstance(text, str)]
    if wrong:
        raise DataError(
            f"texts to predict must be strings, but one is a {type(wrong[0]).__name__}: {str(wrong[0])[:60]!r}."
        )
    return pa.table({encoder.source: pa.array(list(texts), pa.string())})


class SearchScores(Callback):
    """Adds `val/<task>/bleu` to the row of every epoch: of greedy translations of the first validation texts.

    Args:
        model: the model that is trained.
        encoder: fitted rules of the sequences.
        rules: the run's tasks.
        table: the validation rows.
    """

    def __init__(
        self, model: LeptonModel, encoder: SequenceEncoder, rules: Sequence[LabelRule], table: pa.Table
    ) -> None:
        self.model = model
        self.encoder = encoder
        self.tasks = [r for r in rules if r.kind == "translation" and r.task in model.task_names]
        self.table = table.slice(0, SEARCHED_ROWS)

    def on_epoch_end(self, state: TrainState, row: dict[str, float]) -> None:
        """Translate, and write the score into the row."""
        from lepton.run._rows import EVALUATION_SEQUENCES

        tokens = self.encoder.encode(self.table).inputs["tokens"].long() if self.tasks else torch.empty(0)
        for rule in self.tasks:
            found: list[str] = []
            for part in torch.split(tokens, EVALUATION_SEQUENCES):
                moved = part[:, : int((part != 0).sum(1).max())].to(self.model.device)
                found += [self.encoder.decode(ids) for ids in greedy_search(self.model, rule.task, moved)]
            references = [text or "" for text in self.table.column(rule.columns[0]).to_pylist()]
            row[f"val/{rule.task}/bleu"] = text_scores(found, references).bleu
