"""Runnable examples; `examples/README.md` says how to read them."""
