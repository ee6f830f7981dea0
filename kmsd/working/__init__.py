"""The parts of the worker: what is in hand, claiming, and everything that flows work with."""
