"""The loop that people write, which the Trainer is measured against."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import lepton
from lepton.train import warmup_cosine


def train_by_hand(model: lepton.LeptonModel, batches: Any, epochs: int) -> None:
    """Train with AdamW, warm-up and cosine, and clipping, and nothing else."""
    criterion = lepton.MultiTaskLoss(model)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    schedule = warmup_cosine(optimizer, 3, epochs * len(batches))
    for _ in range(epochs):
        for inputs, targets in batches:
            outputs, task_weights = model(inputs)
            loss = criterion(outputs, targets, task_weights)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
            optimizer.step()
            schedule.step()
