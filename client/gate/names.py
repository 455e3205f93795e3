"""What names from the hub may be before they become files."""

import re

RUN = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,64}")
"""What a run may be called: it names a folder at each site."""
