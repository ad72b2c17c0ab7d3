"""A LeptonModel with a transformers trunk, trained by the Hugging Face Trainer.

    pip install transformers accelerate
    python examples/hf_trainer.py

The Trainer wants a module whose forward takes a batch by name and returns a mapping with a `loss`. `ForTrainer` is that
module. The trunk is a small vision transformer, built from a configuration; `from_pretrained` goes in the same place.
"""

from __future__ import annotations

import argparse
import tempfile

import torch
from digits import Digits
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate
from transformers import EvalPrediction, Trainer, TrainingArguments, ViTConfig, ViTModel

from lepton import LeptonModel, MultiTaskLoss
from lepton.balance import CAGrad
from lepton.tasks import Classification, Regression


class ForTrainer(nn.Module):
    """What the Trainer calls: a batch by name to `loss` and `logits`.

    Args:
        model: gets every entry of the batch but `labels`, by name.
    """

    def __init__(self, model: LeptonModel) -> None:
        super().__init__()
        self.model = model
        self.loss_with_weights = MultiTaskLoss(model)

    def forward(self, labels: dict[str, Tensor] | None = None, **inputs: Tensor) -> dict[str, Tensor | dict]:
        """Return `logits` (task -> output), and `loss` if there are labels (task -> target)."""
        outputs, task_weights = self.model(inputs)
        if labels is None:
            return {"logits": outputs}
        return {"loss": self.loss_with_weights(outputs, labels, task_weights), "logits": outputs}


class Scans(Dataset):
    """The digits as the trunk wants them: `pixel_values` [1, 8, 8], and `labels` by task."""

    def __init__(self, rows: Digits) -> None:
        self.rows = rows

    def __len__(self) -> int:
        """Return the number of scans."""
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, Tensor | dict[str, Tensor]]:
        """Return one scan and its labels."""
        pixels, targets = self.rows[row]
        return {"pixel_values": pixels.view(1, 8, 8), "labels": targets}


def build(train: Digits, seed: int = 0) -> LeptonModel:
    """Return a vision transformer with three heads on its `pooler_output`."""
    torch.manual_seed(seed)
    trunk = ViTModel(
        ViTConfig(
            image_size=8,
            patch_size=2,
            num_channels=1,
            hidden_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=96,
            initializer_range=0.1,
        )
    )
    tasks = [
        Classification("digit", classes=10),
        Regression("ink").fit_statistics(train.targets["ink"]),
        Regression("slant").fit_statistics(train.targets["slant"]),
    ]
    return LeptonModel(trunk, tasks, balancer=CAGrad(c=0.4))


def metrics_of(model: LeptonModel, prediction: EvalPrediction) -> dict[str, float]:
    """Return every metric of every task, by `task/metric`, from what the Trainer gathered."""
    found = {}
    for name, task in model.tasks.items():
        metrics = task.metrics()
        output, target = (torch.as_tensor(x[name]) for x in (prediction.predictions, prediction.label_ids))
        task.update_metrics(metrics, output, target)
        found.update({f"{name}/{metric}": float(value.compute()) for metric, value in metrics.items()})
    return found


def main(epochs: int = 8, missing: float = 1 / 3, seed: int = 0) -> dict[str, float]:
    """Train, print held-out metrics, and return them."""
    train, test = Digits(train=True, missing=missing), Digits(train=False)
    model = build(train, seed)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=ForTrainer(model),
            args=TrainingArguments(
                output_dir=folder,
                num_train_epochs=epochs,
                learning_rate=3e-3,
                max_grad_norm=1.0,
                per_device_train_batch_size=64,
                per_device_eval_batch_size=256,
                label_names=["labels"],
                remove_unused_columns=False,  # the columns' names are the trunk's, not those of ForTrainer.forward
                logging_steps=19,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=True,
                seed=seed,
            ),
            data_collator=default_collate,  # the Trainer's own cannot stack labels that are a dictionary
            train_dataset=Scans(train),
            eval_dataset=Scans(test),
            compute_metrics=lambda prediction: metrics_of(model, prediction),
        )
        trainer.train()
        found = trainer.evaluate()
    for name, value in found.items():
        print(f"{name:26s} {value:.4f}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--missing", type=float, default=1 / 3, help="share of the training labels to take away")
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
