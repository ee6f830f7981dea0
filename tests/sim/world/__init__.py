"""What is around the daemon in the simulation: chain, nodes, Core, buckets, wallet, store, and the ways they fail."""
