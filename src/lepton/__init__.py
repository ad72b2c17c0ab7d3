"""Lepton: one PyTorch network for many tasks."""
