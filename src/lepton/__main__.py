"""`python -m lepton`."""

from lepton.cli import main

if __name__ == "__main__":
    main()
