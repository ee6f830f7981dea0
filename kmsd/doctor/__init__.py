"""`kmsd doctor`: asks every dependency once, compares the answers with the configuration, and says what to do."""
