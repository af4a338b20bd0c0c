"""Training of multifurcation reward models: annotation by a process reward model, then partial supervision.

Needs the `train` extra. `corpus/` reads conversations, `annotate` writes their rewards as `shards`, `dataset` reads
these, `train` fits a model to them, `calibration` says how well, and `export` writes it.
"""
