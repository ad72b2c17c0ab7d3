"""`README.md` of an exported folder: what it is, how it is used, how far it is from the run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lepton.export._manifest import FLOAT32, Manifest, Port

__all__ = ["README", "readme"]

README = "README.md"

_TEXT = """# {name}

Exported by Lepton {lepton} (torch {torch}, onnx {onnx}). It predicts {tasks} from the columns {columns}.

    lepton predict THIS_FOLDER rows.csv

```python
from lepton.export import ExportedModel

model = ExportedModel("THIS_FOLDER")
model.predict("rows.csv")
```

Both need `onnxruntime` and the rules in `manifest.json`, and no training code. Every file is compared with its SHA-256
in `manifest.json` before it is used.

## Inputs of model.onnx

{inputs}

## Outputs

{outputs}

## Compared with the {original}

{compared}

{differences}
{left_out}"""

_COMPARED = """On {rows} real rows, one batch after the other and one row alone, differences at most so large: numbers
as they are, values of a regression in standard deviations of their target, class numbers as the share that differs."""

_REWRITTEN = """The weights are {weights}. On {rows} real rows, differences at most so large: numbers as they are,
values of a regression in standard deviations of what the original predicts, class numbers as the share that differs.
There is no `model.pt2`, since a torch program holds the weights of the original."""


def readme(manifest: Manifest) -> str:
    """Return the page of an exported folder.

    Args:
        manifest: complete but for the hashes of the files.
    """
    encoder, rules = manifest.encoder_and_rules()
    outputs = [(port, rule.kind) for rule in rules for port in manifest.outputs[rule.task]]
    largest = manifest.checked["largest_difference"]
    rewritten = manifest.weights != FLOAT32
    compared = (_REWRITTEN if rewritten else _COMPARED).format(weights=manifest.weights, rows=manifest.checked["rows"])
    left_out = [f"`{task}` is not here: {why}." for task, why in manifest.left_out.items()]
    return _TEXT.format(
        name=manifest.name or "A model",
        tasks=_listed(manifest.tasks),
        columns=_listed(encoder.names),
        inputs=_table(["name", "type", "shape"], [_cells(port) for port in manifest.inputs]),
        outputs=_table(
            ["name", "kind of task", "type", "shape", "holds"],
            [[_cells(port)[0], kind, *_cells(port)[1:], port.holds] for port, kind in outputs],
        ),
        original=f"{FLOAT32} model" if rewritten else "run",
        compared=compared,
        differences=_table(["output", "largest difference"], [[f"`{k}`", f"{v:.2g}"] for k, v in largest.items()]),
        left_out="\n" + "\n".join(left_out) + "\n" if left_out else "",
        **manifest.versions,
    )


def _cells(port: Port) -> list[str]:
    return [f"`{port.name}`", port.dtype, " x ".join(map(str, port.shape))]


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:20])
    return f"{shown} and {len(names) - 20} more" if len(names) > 20 else shown


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
