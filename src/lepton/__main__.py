"""`python -m lepton`."""

from lepton.cli import main

main()
