"""Everything around the daemon on one machine, for trying, testing and measuring. The extra `kmsd[sandbox]`."""
