"""The simulated world: the whole daemon under virtual time, one seed at a time (`make sim`)."""
