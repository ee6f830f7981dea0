"""The Core side: generated messages, requests, calls, the meaning of answers, checks of results."""
