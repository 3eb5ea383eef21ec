"""Runs: their folders and checkpoints, and what is made of them afterwards."""
