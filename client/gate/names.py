"""What names from the hub may be before they become files, and a file that both gate and app know."""

import re

RUN = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,64}")
"""What a run may be called: it names a folder at each site."""

SPLITS = "splits.json"
"""In a run's folder: for each case its split, the path of its prepared scan, and its person. The app writes it."""
