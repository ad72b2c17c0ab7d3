"""Lightning and the Hugging Face Trainer reach the parameters of the loop written by hand, on the same batches."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

import lepton
from lepton.balance import FAMO, MGDA, Balancer, Log, Smooth, Uncertainty, UPGrad
from tests.conftest import make_batch, make_model, parameters

STEPS, BATCH = 6, 4
BALANCERS: dict[str, Callable[[], Balancer]] = {
    "upgrad": UPGrad,
    "smooth": lambda: Smooth(Log(MGDA()), decay=0.5),
    "famo": FAMO,
    "uncertainty": Uncertainty,
}


class Rows(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Random rows, a quarter of whose slants are missing."""

    def __init__(self) -> None:
        self.x, self.targets = make_batch(STEPS * BATCH)
        self.targets["slant"][::4] = float("nan")

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> tuple[Tensor, dict[str, Tensor]]:
        return self.x[row], {name: target[row] for name, target in self.targets.items()}


class NamedRows(Rows):
    """The same rows, as a dictionary for each."""

    def __getitem__(self, row: int) -> Any:
        x, targets = super().__getitem__(row)
        return {"input": x, "labels": targets}


def by_hand(model: lepton.LeptonModel, max_norm: float = 0.5, accumulate: int = 1) -> Tensor:
    """Train in a plain loop; return all parameters, and the balancer's state."""
    criterion = lepton.MultiTaskLoss(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for index, (x, targets) in enumerate(DataLoader(Rows(), batch_size=BATCH)):
        outputs, task_weights = model(x)
        (criterion(outputs, targets, task_weights) / accumulate).backward()
        if (index + 1) % accumulate == 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
            optimizer.step()
            optimizer.zero_grad()
    return everything(model)


def everything(model: lepton.LeptonModel) -> Tensor:
    """All parameters and every floating buffer, such as a balancer's averages."""
    state = [value.flatten() for value in model.state_dict().values() if value.is_floating_point()]
    return torch.cat([parameters(model), *state])


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", BALANCERS)
def test_lightning_equals_the_plain_loop(name: str, accumulate: int) -> None:
    lightning = pytest.importorskip("lightning", reason="lightning is not installed")

    class Module(lightning.LightningModule):
        def __init__(self, model: lepton.LeptonModel) -> None:
            super().__init__()
            self.model, self.criterion = model, lepton.MultiTaskLoss(model)

        def training_step(self, batch: Any, batch_index: int) -> Tensor:
            outputs, task_weights = self.model(batch[0])
            return self.criterion(outputs, batch[1], task_weights)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.05)

    model = make_model(BALANCERS[name](), "mixed", gradient_accumulation_steps=accumulate)
    expected = by_hand(copy.deepcopy(model), accumulate=accumulate)
    before = parameters(model)
    trainer = lightning.Trainer(
        max_epochs=1,
        gradient_clip_val=0.5,
        accumulate_grad_batches=accumulate,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(model), DataLoader(Rows(), batch_size=BATCH))
    assert (parameters(model) - before).norm() > 0.01
    torch.testing.assert_close(everything(model), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", BALANCERS)
def test_hugging_face_trainer_equals_the_plain_loop(name: str, accumulate: int, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="the Trainer needs accelerate")

    class ForTrainer(nn.Module):
        def __init__(self, model: lepton.LeptonModel) -> None:
            super().__init__()
            self.model, self.criterion = model, lepton.MultiTaskLoss(model)

        def forward(self, labels: dict[str, Tensor], **inputs: Tensor) -> dict[str, Any]:
            outputs, task_weights = self.model(inputs)
            return {"loss": self.criterion(outputs, labels, task_weights), "logits": outputs}

    model = make_model(BALANCERS[name](), "mixed", gradient_accumulation_steps=accumulate)
    expected = by_hand(copy.deepcopy(model), accumulate=accumulate)
    before = parameters(model)
    trainer = transformers.Trainer(
        model=ForTrainer(model),
        args=transformers.TrainingArguments(
            output_dir=str(tmp_path),
            optim="sgd",
            learning_rate=0.05,
            lr_scheduler_type="constant",
            max_grad_norm=0.5,
            num_train_epochs=1,
            gradient_accumulation_steps=accumulate,
            per_device_train_batch_size=BATCH,
            train_sampling_strategy="sequential",
            label_names=["labels"],
            remove_unused_columns=False,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        ),
        data_collator=default_collate,
        train_dataset=NamedRows(),
    )
    trainer.train()
    assert (parameters(model) - before).norm() > 0.01
    torch.testing.assert_close(everything(model), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("output", [None, "last_hidden_state"])
def test_a_transformers_trunk_gives_pooled_or_per_token_features(output: str | None) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from lepton.tasks import Classification, Regression

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=11, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    model = lepton.LeptonModel(
        transformers.BertModel(config),
        [Classification("tag", classes=3), Regression("length")],
        balancer=UPGrad(),
        output=output,
    )
    inputs = {"input_ids": torch.randint(0, 11, (2, 5)), "attention_mask": torch.ones(2, 5, dtype=torch.int64)}
    outputs, task_weights = model(inputs)
    shape = (2,) if output is None else (2, 5)
    assert outputs["tag"].shape == (*shape, 3)
    assert outputs["length"].shape == shape
    targets = {"tag": torch.zeros(shape, dtype=torch.int64), "length": torch.ones(shape)}
    lepton.MultiTaskLoss(model)(outputs, targets, task_weights).backward()
    assert model.trunk.embeddings.word_embeddings.weight.grad.norm() > 0
    assert bool((model.fork.weights > 0).all())
