"""Measurements of kmsd on the sandbox's parts: `make bench ARGS="public user --json"`."""
