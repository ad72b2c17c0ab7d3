"""The drift report: how far the new rows are from those that a run was trained on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton.data import LabelRule, without_nan
from lepton.errors import ConfigurationError, DataError, MissingExtraError
from lepton.insight import ColumnDrift, column_drift, plot_drift, png_of, sorted_drift
from lepton.run._folder import write_json
from lepton.run._profiles import RowProfiles, profile_rows
from lepton.run._run import Run
from lepton.run.report import read_profiles
from lepton.train import write_atomically

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.table import Table

__all__ = ["DriftReport", "drift_report", "write_drift"]

log = logging.getLogger(__name__)

SHOWN = 10


@dataclass(frozen=True)
class DriftReport:
    """How far new rows are from old ones.

    Attributes:
        columns: of inputs and targets, those that moved farther than chance shows first.
        old: number of old rows that the profiles were made of.
        new: number of new rows.
        together: the profiles of old and new rows together, for the next time.
    """

    columns: tuple[ColumnDrift, ...]
    old: int
    new: int
    together: RowProfiles

    @property
    def moved(self) -> list[ColumnDrift]:
        """The columns that moved farther than chance shows."""
        return [found for found in self.columns if found.moved]

    def table(self) -> Table:
        """Return a table of the columns that moved most."""
        from rich.table import Table

        shown = Table(title="What moved most from the old rows to the new ones", title_justify="left")
        for name, side in (("column", "left"), ("distance", "right"), ("by chance", "right"), ("p", "right")):
            shown.add_column(name, justify=side)  # type: ignore[arg-type]
        shown.add_column("what")
        for found in self.moved[:SHOWN]:
            name = f"{found.name} (target)" if found.role == "target" else found.name
            numbers = (f"{found.distance:.3f}", f"{found.noise:.3f}", f"{found.p_value:.2g}")
            unseen = f"; {found.unseen:.0%} not seen before" if found.unseen >= 0.005 else ""
            shown.add_row(name, *numbers, found.words + unseen)
        return shown

    def sentence(self) -> str:
        """Return in one sentence how many columns moved."""
        rows = f"{self.new:,} new rows beside {self.old:,} old ones"
        if not self.moved:
            return f"Drift: none of {len(self.columns)} columns moved farther than chance shows ({rows})."
        return f"Drift: {len(self.moved)} of {len(self.columns)} columns moved farther than chance shows ({rows})."

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold, NaN aside."""
        columns = [{**vars(found), "moved": found.moved} for found in self.columns]
        return {"rows": {"old": self.old, "new": self.new}, "columns": columns}


def drift_report(run: Run, rules: Sequence[LabelRule], table: pa.Table) -> DriftReport | str:
    """Compare new rows with those that a run was trained on.

    Args:
        run: the run; its folder says what its rows were like, or for a run of an older version its source does.
        rules: of the tasks that the new rows have columns for.
        table: the new rows.

    Returns:
        The report, or a sentence that says why there is none.
    """
    old = read_profiles(run.folder)
    if old is None:
        try:
            old = profile_rows(run.encoder, run.rules, run.tables()["train"])
        except (ConfigurationError, DataError) as error:
            return f"There is no drift report: an older version wrote the run, and its rows are not there. {error}"
    new = old.like(run.encoder, rules, table)
    inputs = [column_drift(name, old.inputs[name], found) for name, found in new.inputs.items()]
    targets = [column_drift(name, old.targets[name], found, role="target") for name, found in new.targets.items()]
    columns = sorted_drift([*inputs, *targets])
    size = max((profile.rows for profile in [*old.inputs.values(), *old.targets.values()]), default=0)
    return DriftReport(tuple(columns), size, table.num_rows, old.merged(new))


def write_drift(folder: Path, found: DriftReport, metrics: dict[str, Any]) -> None:
    """Write `drift.json`, and `drift.png` where matplotlib is installed.

    Args:
        folder: the new run's.
        found: the report.
        metrics: the old model's on old and on new rows.
    """
    write_json(folder / "drift.json", without_nan({**found.to_dict(), "metrics": metrics}))
    try:
        figure = plot_drift(found.columns, title=f"{found.new:,} new rows beside {found.old:,} old ones")
    except MissingExtraError as error:
        log.warning("drift.png is not drawn: %s", error)
        return
    write_atomically(folder / "drift.png", png_of(figure, dpi=150))
