"""What an export wrote and how far it is from the run, for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lepton.export import Export

__all__ = ["exported"]


def exported(found: Export) -> list[Any]:
    """Return a table of the largest differences, and sentences about the rest."""
    from rich.table import Table

    checked = found.manifest.checked
    largest = checked["largest_difference"]
    ports = [port for ports in found.manifest.outputs.values() for port in ports]
    shown = Table(title=f"Compared with the run on {checked['rows']} real rows", title_justify="left")
    shown.add_column("output", overflow="fold")
    shown.add_column("largest difference", justify="right")
    shown.add_column("allowed", justify="right")
    for port in ports:
        floating = "float" in port.dtype
        allowed = checked["tolerance"] if floating else checked["tolerated_labels"]
        words = f"{largest[port.name]:.2g}" if floating else f"{largest[port.name]:.2%}"
        shown.add_row(port.name, words, f"{allowed:g}" if floating else f"{allowed:.1%}")
    sizes = ", ".join(f"{name} {size / 1e6:.2f} MB" for name, size in found.sizes.items())
    left_out = [f"{task!r} is not in it: {why}." for task, why in found.manifest.left_out.items()]
    return [
        shown,
        *left_out,
        f"Wrote {found.folder}: {sizes}.",
        f"Predict with it:  lepton predict {found.folder} ROWS",
    ]
