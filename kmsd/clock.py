"""Real time and real chance, behind the ports `Time` and `Entropy`."""

import os
import random
import time


class SystemTime:
    """The machine's wall clock."""

    def now(self) -> float:
        """Unix time in seconds."""
        return time.time()


class SystemEntropy:
    """The operating system's entropy."""

    def __init__(self) -> None:
        self._random = random.SystemRandom()

    def random(self) -> float:
        """A float in [0, 1)."""
        return self._random.random()

    def token(self, size: int) -> bytes:
        """`size` random bytes."""
        return os.urandom(size)
