"""Ciphertexts from the coprocessors' buckets: which buckets, how to download, what memory may hold, what to believe."""
