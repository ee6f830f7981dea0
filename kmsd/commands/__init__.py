"""The commands, one module each or a few; `kmsd.cli` names them and imports each only when it is called."""
