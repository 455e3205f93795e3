"""The hub's way to its sites, over the in-process grid with unmodified message handling."""

import gc
import json
import time
import weakref

import numpy as np
import pytest
from flwr.clientapp import ClientApp

import client.app
from approving import ATLAS, approve, open_policy, toy
from configs.errors import FederationError
from server.federation import GridFederation, Late, Traffic
from simulation.engines import SiteFolder
from simulation.engines.inprocess import InProcessGrid, identity, node_config
from sst_models.wire.exchange import PhaseRequest, SiteReply

EXPERIMENT = toy()
NAMES = ("one", "three", "two")


@pytest.fixture(autouse=True)
def _identity():
    with identity():
        yield


def half_way(request, site):
    """A toy phase: three weights move half of the way to the site's own number, which is also its count."""
    own = int((site.data[0] / "number.txt").read_text())
    weights = request.arrays["T"]["w"]
    moved = weights + np.float32(0.5) * (np.float32(own) - weights)
    return SiteReply(site.name, request.phase, request.round, own, {"T": {"w": moved}})


def folders(root, names=NAMES):
    """Sites whose numbers are 1, 3 and 2."""
    sites = []
    for name, number in zip(names, (1, 3, 2), strict=False):
        (root / name).mkdir(exist_ok=True)
        (root / name / "number.txt").write_text(str(number))
        state = root / name / "state"
        approve(state, EXPERIMENT, begins={"T": {"w": np.zeros(3, np.float32)}})
        sites.append(SiteFolder(name, (root / name,), state, open_policy(root / name)))
    return sites


def make_grid(root, answer=half_way, **options):
    """A grid of toy sites."""
    configs = {site.name: node_config(site) for site in folders(root)}
    return InProcessGrid(client.app.register(ClientApp(), answer), configs, **options)


def requests(names=NAMES, value=0.0, number=1):
    """One request for each site, with the same three weights."""
    part = {"w": np.full(3, value, np.float32)}
    words, atlas = ("run", "register", number), {"atlas": ATLAS}
    return [PhaseRequest(*words, name, EXPERIMENT.to_json(), {"T": part}, atlas) for name in names]


def test_weighted_mean_of_three_sites(tmp_path):
    """One round from 0 gives (1 * 0.5 + 3 * 1.5 + 2 * 1.0) / 6."""
    federation = GridFederation(make_grid(tmp_path), 60)
    replies = list(federation.ask(requests(federation.sites())))
    assert [reply.site for reply in replies] == ["one", "three", "two"]
    mean = sum(reply.arrays["T"]["w"] * reply.count for reply in replies) / sum(reply.count for reply in replies)
    np.testing.assert_allclose(mean, np.full(3, 7 / 6), rtol=1e-6)


def test_traffic_counts_bytes_each_way(tmp_path):
    """Three float32 go down and come up per site."""
    federation = GridFederation(make_grid(tmp_path), 60)
    list(federation.ask(requests()))
    assert federation.traffic == [Traffic("register", 1, name, 12, 12) for name in NAMES]


def test_replies_are_taken_one_by_one(tmp_path):
    """No reply is alive when the next one is unpacked, and no site works before its turn."""
    seen = []
    last = None
    for reply in GridFederation(make_grid(tmp_path), 60).ask(requests()):
        seen.append(last is None or last() is None)
        last = weakref.ref(reply.arrays["T"]["w"])
        del reply
        gc.collect()
    assert seen == [True, True, True]


def test_unregistered_nodes_are_asked_for_their_names(tmp_path):
    """Where the grid knows no names, the sites say them, once."""
    grid = make_grid(tmp_path, registered=False)
    federation = GridFederation(grid, 60)
    assert federation.sites() == NAMES
    assert [reply.error for reply in federation.ask(requests())] == ["", "", ""]
    entries = (tmp_path / "one" / "state" / "gate" / "ledger.jsonl").read_text().splitlines()
    assert [json.loads(entry)["phase"] for entry in entries] == ["hello", "register"]


@pytest.mark.parametrize("code", [3, 5, 8])
def test_lost_messages_are_sent_again(tmp_path, code):
    """A message that gets lost twice reaches its site the third time; the others go on."""
    failures = [code, code]

    def fault(site, message):
        return failures.pop() if site == "three" and failures else None

    federation = GridFederation(make_grid(tmp_path, fault=fault), 60)
    assert [reply.error for reply in federation.ask(requests())] == ["", "", ""]
    assert federation.traffic[1] == Traffic("register", 1, "three", 36, 12)


def test_reply_lost_on_its_way_is_not_computed_again(tmp_path):
    """The site works once: the second answer comes from its disk."""
    worked = []

    def answer(request, site):
        worked.append(site.name)
        return half_way(request, site)

    class Lossy(InProcessGrid):
        """A grid that loses the first reply of a site after the site has worked."""

        lost = False

        def pull_messages(self, message_ids):
            from flwr.app import Error, Message

            replies = super().pull_messages(message_ids)
            if replies and not self.lost:
                self.lost = True
                return [Message(Error(5), reply_to=replies[0])]
            return replies

    configs = {site.name: node_config(site) for site in folders(tmp_path)}
    federation = GridFederation(Lossy(client.app.register(ClientApp(), answer), configs), 60)
    assert [reply.error for reply in federation.ask(requests())] == ["", "", ""]
    assert sorted(worked) == sorted(NAMES)


@pytest.mark.parametrize(
    ("code", "word", "tries"), [(2, "raised", 1), (8, "crashed", 3), (1, "load", 1), (7, "bundle", 1)]
)
def test_site_that_fails_gives_a_word(tmp_path, code, word, tries):
    """A site's own no is not asked again; a loss that goes on is, a bounded number of times."""
    asked = []

    def fault(site, message):
        if site == "one":
            asked.append(site)
            return code
        return None

    federation = GridFederation(make_grid(tmp_path, fault=fault), 60, retries=2)
    assert [reply.error for reply in federation.ask(requests())] == [word, "", ""]
    assert len(asked) == tries


def test_silent_site_costs_its_deadline_only(tmp_path):
    """A site that never answers is given up, and the next one is folded."""

    class Silent(InProcessGrid):
        """A grid on which the first site never answers."""

        def pull_messages(self, message_ids):
            return super().pull_messages([one for one in message_ids if one != "message-1"])

    configs = {site.name: node_config(site) for site in folders(tmp_path)}
    federation = GridFederation(Silent(client.app.register(ClientApp(), half_way), configs), deadline_s=0.3)
    assert [reply.error for reply in federation.ask(requests())] == ["deadline", "", ""]


def test_late_reply_is_discarded_with_a_note(tmp_path):
    """It is taken out of Flower's hands and changes nothing."""

    class Slow(InProcessGrid):
        """A grid on which the first site's first message is answered when its time is over."""

        end = 0.0

        def pull_messages(self, message_ids):
            self.end = self.end or time.monotonic() + 0.6
            late = time.monotonic() < self.end
            return super().pull_messages([one for one in message_ids if not (late and one == "message-1")])

    configs = {site.name: node_config(site) for site in folders(tmp_path)}
    federation = GridFederation(Slow(client.app.register(ClientApp(), half_way), configs), 0.3)
    assert [reply.error for reply in federation.ask(requests())] == ["deadline", "", ""]
    time.sleep(0.6)
    federation._watched = -100.0
    federation._watch([])
    assert federation.late == [Late("register", 1, "one")]


def test_replayed_and_forged_replies_do_not_count(tmp_path):
    """A reply answers the one message that it was made for: each message has a word that only its reader knows."""

    class Replaying(InProcessGrid):
        """A grid on which the first site's first reply comes for every message of the second round, too."""

        first = None

        def pull_messages(self, message_ids):
            replies = list(super().pull_messages(message_ids))
            if replies and self.first is None:
                self.first = replies[0]
            elif replies:
                from flwr.app import Message

                return [Message(self.first.content, reply_to=replies[0])]
            return replies

    configs = {site.name: node_config(site) for site in folders(tmp_path)}
    federation = GridFederation(Replaying(client.app.register(ClientApp(), half_way), configs), 60)
    assert [reply.error for reply in federation.ask(requests())] == ["", "malformed", "malformed"]
    assert [reply.error for reply in federation.ask(requests())] == ["malformed"] * 3


def test_registered_name_cannot_be_taken(tmp_path):
    """Where keys are registered, a node without a name is nobody, whatever it calls itself."""

    class Mixed(InProcessGrid):
        """A grid on which the last node has no registered name."""

        def get_nodes(self):
            *registered, last = super().get_nodes()
            last.name = ""
            return [*registered, last]

    configs = {str(n): node_config(site) for n, site in enumerate(folders(tmp_path))}
    configs["2"]["site-name"] = "0"
    federation = GridFederation(Mixed(client.app.register(ClientApp(), half_way), configs), 60)
    assert federation.sites() == ("0", "1")
    assert not (tmp_path / "two" / "state" / "gate" / "log.jsonl").exists()


def test_node_that_restarts_is_asked_again(tmp_path):
    """A quick restart loses a message in silence; the time of activation gives it away."""

    class Restarting(InProcessGrid):
        """A grid on which the first site's first message was claimed by a process that is gone."""

        looks = 0

        def get_nodes(self):
            self.looks += 1
            nodes = super().get_nodes()
            for node in nodes:
                node.last_activated_at = "later" if self.looks > 1 else "before"
            return nodes

        def pull_messages(self, message_ids):
            return super().pull_messages([one for one in message_ids if one != "message-1"])

    configs = {site.name: node_config(site) for site in folders(tmp_path)}
    federation = GridFederation(Restarting(client.app.register(ClientApp(), half_way), configs), 30)
    federation._watched = -100.0
    assert [reply.error for reply in federation.ask(requests())] == ["", "", ""]


def test_site_that_is_not_there_is_unavailable(tmp_path):
    """A request for a site that does not come within the hub's patience gives a word."""
    federation = GridFederation(make_grid(tmp_path), 60, patience_s=0.2)
    replies = list(federation.ask(requests(("four", "one"))))
    assert [(reply.site, reply.error) for reply in replies] == [("four", "unavailable"), ("one", "")]


def test_too_few_sites_is_one_clear_line(tmp_path):
    """The hub says how many of how many came, and which."""
    federation = GridFederation(make_grid(tmp_path), 60)
    assert federation.wait(3, 0.0) == NAMES
    with pytest.raises(FederationError, match=r"3 of 4 sites .*one, three, two"):
        federation.wait(4, 0.0)


def test_order_of_the_sites_changes_nothing(tmp_path):
    """The same replies come, whatever the order in which sites are asked."""

    def ask(names):
        replies = GridFederation(make_grid(tmp_path), 60).ask(requests(names))
        return {reply.site: reply.arrays["T"]["w"].tolist() for reply in replies}

    assert ask(NAMES) == ask(NAMES[::-1])


def test_what_is_begun_holds_up_no_round(tmp_path):
    """Rounds go on while a site prepares its scans; its answer is there when somebody looks, within its own time."""

    class Slow(InProcessGrid):
        """A grid on which the first message pushed takes its time."""

        ready = False

        def pull_messages(self, message_ids):
            return super().pull_messages([one for one in message_ids if self.ready or one != "message-1"])

    def answer(request, site):
        if request.phase == "join":
            return SiteReply(site.name, "join", 1, 3, settings={"scans": 3, "atlas": ATLAS})
        return half_way(request, site)

    configs = {site.name: node_config(site) for site in folders(tmp_path)}
    grid = Slow(client.app.register(ClientApp(), answer), configs)
    federation = GridFederation(grid, 60)
    federation.begin([PhaseRequest("run", "join", 1, "three", EXPERIMENT.to_json(), {}, {"atlas": ATLAS})], 7200)
    assert federation.answered() == []
    others = ("one", "two")
    assert [reply.error for reply in federation.ask(requests(others))] == ["", ""]
    assert federation.answered() == []
    grid.ready = True
    (reply,) = federation.answered()
    assert (reply.site, reply.phase, reply.count, reply.error) == ("three", "join", 3, "")
    assert federation.answered() == []
    assert [item.phase for item in federation.traffic] == ["register", "register", "join"]


def test_what_is_begun_ends_at_its_deadline(tmp_path):
    """Or when the site is gone for good; the message outlives the deadline, so that the hub's clock decides."""

    class Silent(InProcessGrid):
        """A grid on which nobody answers."""

        pushed = ()

        def push_messages(self, messages):
            self.pushed = list(messages)
            return super().push_messages(self.pushed)

        def pull_messages(self, message_ids):
            return []

    configs = {site.name: node_config(site) for site in folders(tmp_path)}
    grid = Silent(client.app.register(ClientApp(), half_way), configs)
    federation = GridFederation(grid, 60, patience_s=0.0)
    joins = [
        PhaseRequest("run", "join", 1, site, EXPERIMENT.to_json(), {}, {"atlas": ATLAS}) for site in ("one", "four")
    ]
    federation.begin(joins[:1], 7200)
    assert grid.pushed[0].metadata.ttl > 7200
    assert federation.answered() == []
    federation.begin(joins, 0.0)
    time.sleep(0.01)
    found = [(reply.site, reply.error) for reply in federation.answered()]
    assert found == [("one", "deadline"), ("four", "deadline")]
    federation.begin(joins[1:], 7200)
    assert [reply.error for reply in federation.answered()] == ["unavailable"]
