"""Metrics, validation on pairs, contact sheets."""
