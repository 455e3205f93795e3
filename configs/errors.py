"""Every error that a user can cause, so that the command line can turn each into one line and exit code 2.

    SstError                 the root: catch this to catch all of ours
      ConfigError            a preset: unknown key, wrong type, value out of range
      DataError              a scan, a label map, an atlas or a folder of them
        TooFewError          fewer scans or people than a figure needs
      RefusalError           a request that a site does not answer: not what was approved, or against its policy
      ReleaseError           a reply that holds what its phase did not declare, or that the site's policy forbids
        DeclinedError        a phase that the site's policy leaves out
      FederationError        the hub and the sites cannot go on together
      RunError               an output folder that holds another run, or a run that cannot be continued

A message says what was wrong, where, and what to do, in one line.
"""

import errno

DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM})
"""What the system says when a disk is full, or may not be written."""


def legible(text: str) -> str:
    """Give a text that can be written and shown: of a file's name that is not UTF-8, the odd bytes as `\\xfc`."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class SstError(Exception):
    """Root of all errors that a user can cause or mend."""

    def __init__(self, *args: object) -> None:
        """Keep what is to be said, with nothing in it that a terminal or a file cannot take."""
        super().__init__(*(legible(part) if isinstance(part, str) else part for part in args))


class ConfigError(SstError):
    """A preset cannot be used as it stands."""


class DataError(SstError):
    """A scan, a label map, an atlas or a site folder cannot be used."""


class TooFewError(DataError):
    """A figure over so few scans or people would be a figure of one of them."""


class RefusalError(SstError):
    """The hub asked for what was not approved, asked twice, or asked for more than the policy allows."""


class ReleaseError(SstError):
    """Something was about to leave a site that may not leave it."""


class DeclinedError(ReleaseError):
    """The site takes no part in a phase: its level of sharing, or the phases of its policy, leave it out."""


class FederationError(SstError):
    """The hub and its sites cannot go on: no quorum, a mismatch, a phase that failed everywhere."""


class RunError(SstError):
    """A run folder cannot be used or continued."""


def disk_error(error: OSError) -> RunError | None:
    """Give the error to raise where a disk is full or may not be written; None where the system says anything else."""
    if error.errno not in DISK:
        return None
    where = f" ({error.filename})" if error.filename else ""
    return RunError(f"cannot write: {error.strerror}{where}; make room, or give another folder")
