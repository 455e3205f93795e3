"""What a site keeps of a secure sum between two messages; it is secret, and never leaves the site."""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field

from configs.errors import RefusalError
from sst_models.secure_sum.messages import Announcement
from sst_models.secure_sum.sharing import Secrets
from sst_models.secure_sum.terms import Terms


@dataclass(frozen=True)
class SiteState:
    """A site's side of all sums of one run.

    It must be on stable storage before the answer that came with it is sent: a site that went back to an older state
    could reveal a label twice. A site that lost its state takes part again under terms with another name of the run.
    """

    terms: Terms
    site: str
    box_key: str = field(repr=False)  # private X25519, hexadecimal
    secrets: Mapping[str, Secrets]  # own, by label, without those that were forgotten
    announced: Mapping[str, Announcement] = field(default_factory=dict)  # by site: all to whom shares were sent
    shares: Mapping[str, Mapping[str, Secrets]] = field(default_factory=dict)  # sender -> label
    participants: tuple[str, ...] = ()  # whose boxes this site opened, and itself; sorted
    agreed: bool = False  # so many others have opened the same boxes
    masked: Mapping[str, str] = field(default_factory=dict)  # label -> SHA-256 of the values
    revealed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # label -> survivors, sorted

    def to_json(self) -> str:
        """Give the state as text, private keys and all."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "SiteState":
        """Read what `to_json` gave.

        Raises:
            ValueError, KeyError, TypeError: it is no such text.
        """
        read = json.loads(text)
        return SiteState(
            terms=Terms.from_json(json.dumps(read.pop("terms"))),
            secrets=_secrets(read.pop("secrets")),
            announced={site: Announcement(**said) for site, said in read.pop("announced").items()},
            shares={site: _secrets(own) for site, own in read.pop("shares").items()},
            participants=tuple(read.pop("participants")),
            revealed={label: tuple(survivors) for label, survivors in read.pop("revealed").items()},
            **read,
        )


def demand(terms: Terms, sites: Collection[str], what: str) -> None:
    """See that sites are as many as the threshold.

    Args:
        terms: of the sum.
        sites: those that did what they should.
        what: they should do, in an error.

    Raises:
        RefusalError: they are fewer.
    """
    if len(sites) < terms.threshold:
        raise RefusalError(f"only {len(sites)} of {len(terms.sites)} sites {what}; it takes {terms.threshold}")


def _secrets(read: Mapping[str, Mapping[str, str]]) -> dict[str, Secrets]:
    return {label: Secrets(**own) for label, own in read.items()}
