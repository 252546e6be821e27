"""Pure functions on arrays and tensors: no files, no configuration. Compiled code is beside its caller, in `_*.py`."""
