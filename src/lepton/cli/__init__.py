"""The command line: parsing only, one thin function for each verb."""

from lepton.cli._main import main

__all__ = ["main"]
