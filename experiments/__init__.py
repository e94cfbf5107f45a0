"""What meta-learning is worth on real tasks: one module a question, run as ``python -m experiments.NAME``."""
