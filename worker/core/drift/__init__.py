"""Drift of inputs and predictions: every column, and how columns depend on each other, against a reference.

the first events ──► histograms ──► bins of about equal mass, reference counts    reference.py, bins.py
events ──► bins ──► counts of blocks ──► windows of 1, 2, 4, ... blocks           kernels/binning.py, windows.py
window against reference ──► two tests ──► p-values, corrected ──► affected       kernels/two_sample.py, decisions.py
affected ──► effects, pattern ──► alerts; a drift that stays ──► the reference    effects.py, pattern.py, watch.py
pairs and sums of ranks ──► the same                                              dependence.py
"""
