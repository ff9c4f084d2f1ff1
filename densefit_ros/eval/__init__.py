"""Measuring: metrics, dataset loaders, reports."""
