"""How the bundled workloads are made: training, statistics, acceptance, model card.

Each `python -m pqbench.workloads.training.X` is a step of it.
"""
