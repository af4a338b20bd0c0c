"""How safe a model is, at what compute, compared with what: datasets, attacks, methods, judges, and the tables."""
