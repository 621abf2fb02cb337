"""Metrics of the papers, exact over a whole split."""
