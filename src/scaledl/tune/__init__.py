"""Search over the keys of a config: what to try next, when to stop a trial, and the machines that run them."""
