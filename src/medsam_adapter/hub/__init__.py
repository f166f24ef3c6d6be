"""Sharing: model cards, and later publishing and converting."""
