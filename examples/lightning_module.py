"""A LeptonModel inside a LightningModule, trained by lightning's Trainer.

    pip install lightning
    python examples/lightning_module.py

Nothing is special: `training_step` returns the scalar, Lightning calls backward, clips and steps. Tell the model of
`accumulate_grad_batches`, if you use it, through `gradient_accumulation_steps`.
"""

from __future__ import annotations

import argparse

import lightning
import torch
from digits import Digits
from plain_loop import build
from torch import Tensor
from torch.utils.data import DataLoader

from lepton import LeptonModel, MultiTaskLoss


class MultiTaskModule(lightning.LightningModule):
    """Trains a LeptonModel and logs `train/<task>/loss` and `val/<task>/<metric>`."""

    def __init__(self, model: LeptonModel, learning_rate: float = 3e-3) -> None:
        super().__init__()
        self.model = model
        self.loss_with_weights = MultiTaskLoss(model)
        self.learning_rate = learning_rate

    def training_step(self, batch: tuple[Tensor, dict[str, Tensor]], batch_index: int) -> Tensor:
        """Return the loss of a batch."""
        inputs, targets = batch
        outputs, task_weights = self.model(inputs)
        loss = self.loss_with_weights(outputs, targets, task_weights)
        self.log("train/loss", loss, prog_bar=True)
        self.log_dict({f"train/{name}/loss": value for name, value in self.loss_with_weights.losses.items()})
        return loss

    def on_validation_epoch_start(self) -> None:
        """Begin to count."""
        self.metrics = {name: task.metrics() for name, task in self.model.tasks.items()}

    def validation_step(self, batch: tuple[Tensor, dict[str, Tensor]], batch_index: int) -> None:
        """Add a batch to the metrics."""
        inputs, targets = batch
        outputs, _ = self.model(inputs)
        for name, task in self.model.tasks.items():
            task.update_metrics(self.metrics[name], outputs[name], targets[name])

    def on_validation_epoch_end(self) -> None:
        """Log what was counted."""
        for name, own in self.metrics.items():
            self.log_dict({f"val/{name}/{metric}": float(value.compute()) for metric, value in own.items()})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW over all parameters, those of a balancer that learns weights included."""
        return torch.optim.AdamW(self.parameters(), lr=self.learning_rate)


def main(epochs: int = 10, missing: float = 1 / 3, seed: int = 0) -> dict[str, float]:
    """Train, print held-out metrics, and return them."""
    train, test = Digits(train=True, missing=missing), Digits(train=False)
    module = MultiTaskModule(build(train, seed))
    batches = DataLoader(train, batch_size=64, shuffle=True, generator=torch.Generator().manual_seed(seed))
    trainer = lightning.Trainer(
        max_epochs=epochs,
        gradient_clip_val=1.0,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, batches, DataLoader(test, batch_size=256))
    found = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    for name, value in found.items():
        print(f"{name:20s} {value:.4f}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--missing", type=float, default=1 / 3, help="share of the training labels to take away")
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
