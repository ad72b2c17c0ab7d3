"""The command line: parsing only, one thin function for each verb."""

import os

# Before torch allocates anything: on Linux it then asks for large pages, and a tensor of tens of megabytes is copied in
# a third of the time. A library must not change its host's memory; a program may.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

from lepton.cli._main import main

__all__ = ["main"]
