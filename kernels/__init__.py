"""Pure functions on arrays and tensors: hashes, permutation, packing, collation, segment sums.

No files, no configuration, no chemistry. Numba code lives in `_numba`; each compiled function has a slow, obvious twin in
`reference`, and the tests hold the two equal. Only `segment` imports torch.
"""
