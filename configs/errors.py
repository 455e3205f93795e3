"""Every error that a user can cause, so that the command line can turn each into one line and exit code 2.

    SstError                 the root: catch this to catch all of ours
      ConfigError            a preset: unknown key, wrong type, value out of range
      DataError              a scan, a label map, an atlas or a folder of them
      ReleaseError           a reply that holds what its phase did not declare, or that the site's policy forbids
      FederationError        the hub and the sites cannot go on together
      RunError               an output folder that holds another run, or a run that cannot be continued

A message says what was wrong, where, and what to do, in one line.
"""


class SstError(Exception):
    """Root of all errors that a user can cause or mend."""


class ConfigError(SstError):
    """A preset cannot be used as it stands."""


class DataError(SstError):
    """A scan, a label map, an atlas or a site folder cannot be used."""


class ReleaseError(SstError):
    """Something was about to leave a site that may not leave it."""


class FederationError(SstError):
    """The hub and its sites cannot go on: no quorum, a mismatch, a phase that failed everywhere."""


class RunError(SstError):
    """A run folder cannot be used or continued."""
