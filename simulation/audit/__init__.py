"""The audit: attacks on what the sites of a run released, and what these found, in numbers.

`networks` and `copies` carry attacks out, as does `client.audit` on statistics, which also measures them; `audit` holds
them together, and `report` writes down what was found.
"""
