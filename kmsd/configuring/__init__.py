"""How a configuration is read, judged, explained and documented; what it consists of stands in `kmsd.config`."""
