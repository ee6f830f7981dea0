"""The parts of the sender: responses in hand, preparing, broadcasting, confirming, repairing (issue 5)."""
