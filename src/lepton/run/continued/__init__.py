"""Going on with a trained run: new rows without forgetting the old ones, classes added, a task retired."""

from __future__ import annotations

from lepton.run.continued._continue import continue_run
from lepton.run.continued._methods import ContinueMethod
from lepton.run.continued._result import Continued

__all__ = ["ContinueMethod", "Continued", "continue_run"]
