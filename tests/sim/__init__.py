"""The simulated world: the whole daemon under virtual time, one seed at a time.

    make sim SEEDS=1000 FIRST=0     worlds 0 to 999; a failure prints its least plan and how to replay it
    make sim-mutants                within how many seeds each deliberate bug of mutants.toml is found

Real are everything in kmsd above its ports: listener, worker, sender, gc, nursery, supervision, policies. Simulated are
the ports (`world/`). To read in this order:

    plan.py         what happens to a world: plain data drawn from a seed
    faults.py       what each fault does
    simulation.py   a world from its beginning to its end
    invariants.py   what must always hold, and what must hold when all faults are over
    world/          lives.py (crashes, lost answers, late arrivals), chain, nodes, Core, store, …
    corpus.py       plans that once showed a bug
    runner.py, shrink.py, mutants.py, hunt.py    many seeds, least plans, deliberate bugs

A crash is not a cancellation: from the instant of a kill nothing that the dead life still does has an effect, but what
it had sent before may arrive. What it cannot show: bugs of the SQL (the store's rules are written twice, and compared
by test_sim_store_twins.py), of sockets and codecs below the ports, and time that passes while Python computes.
"""
