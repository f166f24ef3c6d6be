"""Prediction: interactively, for whole volumes, for folders."""
