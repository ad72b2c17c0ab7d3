"""From a resolved configuration and fitted rules to a model: what training and loading share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from lepton.config import Config, Custom, load_class, make_balancer, make_task, trunks
from lepton.data import TEXT_BUCKETS, InputEncoder, LabelRule
from lepton.nn import LeptonModel

__all__ = ["build_model"]


def build_model(
    config: Config, encoder: InputEncoder, rules: Sequence[LabelRule], *, trust: bool = False, only: str | None = None
) -> LeptonModel:
    """Return the model that a configuration describes, initialised from its seed.

    Args:
        config: resolved.
        encoder: fitted rules of the inputs.
        rules: rules of the labels.
        trust: whether classes may be imported.
        only: one task, for a model that learns it alone.
    """
    torch.manual_seed(config.seed)
    trunk = _trunk(config.trunk, encoder, trust)
    chosen = [rule for rule in rules if only is None or rule.task == only]
    tasks = [make_task(rule.task, config.tasks[rule.task], rule.classes, trust=trust) for rule in chosen]
    return LeptonModel(trunk, tasks, balancer=make_balancer(config.balance), gradients=config.balance.gradients)


def _trunk(section: Any, encoder: InputEncoder, trust: bool) -> nn.Module:
    if isinstance(section, Custom):
        return load_class(section, trust=trust)
    options = section.model_dump(exclude={"type"})
    kind: Any = trunks()[section.type]
    return kind(**_from_data(encoder), **options)  # type: ignore[no-any-return]


def _from_data(encoder: InputEncoder) -> dict[str, Any]:
    texts = {"texts": encoder.texts, "text_buckets": TEXT_BUCKETS} if encoder.texts else {}
    return {"knots": encoder.knots, "categories": encoder.categories, **texts}
