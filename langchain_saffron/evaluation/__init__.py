"""How safe a model is, at what compute, compared with what: datasets, attacks, methods, judges, and the tables.

Needs the `eval` extra; without it, importing this package raises `ExtraRequiredError`. `run.evaluate` is the way in.
"""

from langchain_saffron.extras import EVALUATION

EVALUATION.require()
