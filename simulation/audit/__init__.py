"""The audit: attacks on what the sites of a run released, and what these found, in numbers.

`membership` measures an attack, `statistics`, `networks` and `copies` carry them out, `audit` holds them together, and
`report` writes down what was found.
"""
