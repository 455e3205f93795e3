"""The two halves of the translation to Flower's records."""

import numpy as np
import pytest
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

import client.messages
import server.messages
from sst_models.wire.exchange import PhaseRequest, SiteReply
from sst_models.wire.payload import answer


def same(one, other):
    """Are two mappings of arrays equal, bit for bit?"""
    assert {part: set(arrays) for part, arrays in one.items()} == {part: set(arrays) for part, arrays in other.items()}
    for part, arrays in one.items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(other[part][name], array, strict=True)


ARRAYS = {
    "T": {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "scale": np.ones((), np.float32)},
    "atlas": {"labels": np.arange(8, dtype=np.uint8).reshape(2, 2, 2), "count": np.array([-3], np.int64)},
    "moments.one-site": {"mean": np.asfortranarray(np.ones((2, 3), np.float32))},
    "empty": {},
}


def test_request_arrives_as_sent():
    """What the hub asks is what the site reads."""
    settings = {"steps": 3, "rate": 0.5, "name": "x", "fresh": True, "shift": -1}
    sent = PhaseRequest("run", "joint", 2, "one", '{"a": 1}', ARRAYS, settings)
    content = server.messages.encode_request(sent, {})
    read = client.messages.decode_request(content)
    same(sent.arrays, client.messages.decode_parcel(content).whole)
    assert (read.run, read.phase, read.round, read.site, read.experiment) == ("run", "joint", 2, "one", '{"a": 1}')
    assert read.settings == settings and type(read.settings["fresh"]) is bool


def test_reply_arrives_as_sent():
    """What the site answers is what the hub reads."""
    sent = SiteReply(
        "one", "joint", 2, 5, ARRAYS, {"loss": 0.1}, {"loss": (0.3, 0.1), "none": ()}, {"device": "cpu"}, "data"
    )
    request = PhaseRequest("run", "joint", 2, "one", "{}")
    read = server.messages.decode_reply(client.messages.encode_reply(sent), request)
    same(sent.arrays, read.arrays)
    assert (read.site, read.count, read.error, read.settings) == ("one", 5, "data", {"device": "cpu"})
    assert (read.metrics, read.series) == (sent.metrics, sent.series)
    assert read.bytes == sent.bytes


def test_reply_survives_flowers_wire():
    """Records that are cut into objects and put together again are the same."""
    content = client.messages.encode_reply(SiteReply("one", "joint", 2, 5, ARRAYS, {"loss": 0.1}, {"loss": (0.3,)}))
    objects = {key: value.deflate() for key, value in get_all_nested_objects(content).items()}
    again = inflate_object_from_contents(content.object_id, objects)
    read = server.messages.decode_reply(again, PhaseRequest("run", "joint", 2, "one", "{}"))
    same(ARRAYS, read.arrays)


def test_shared_weights_are_written_once():
    """The same weights for many sites become one record."""
    written = {}
    one, two = (PhaseRequest("run", "joint", 1, site, "{}", ARRAYS) for site in ("one", "two"))
    first, second = (server.messages.encode_request(request, written) for request in (one, two))
    assert first["arrays.T"] is second["arrays.T"]


def test_a_difference_arrives_as_sent():
    """What a site coded survives the wire, and the hub reads the weights that it leads to."""
    base = {"T": {"a": np.ones((2, 3), np.float32), "b": np.zeros((), np.float32)}}
    new = {"T": {"a": np.full((2, 3), 1.25, np.float32), "b": np.full((), -3, np.float32)}}
    request = PhaseRequest("run", "register", 2, "one", "{}", base, payload="half")
    parcel, led = answer(new, request)
    content = client.messages.encode_reply(SiteReply("one", "register", 2, 5, new), parcel)
    objects = {key: value.deflate() for key, value in get_all_nested_objects(content).items()}
    read = server.messages.decode_reply(inflate_object_from_contents(content.object_id, objects), request)
    same(new, read.arrays)
    same(new, {"T": led[parcel.digests["T"]]})
    assert parcel.bytes == 7 * 2 + 2 * 2


def test_reply_to_another_request_is_refused():
    """A late answer to an earlier round is not taken for this one."""
    content = client.messages.encode_reply(SiteReply("one", "joint", 1, 5))
    with pytest.raises(ValueError, match="answers another phase or round"):
        server.messages.decode_reply(content, PhaseRequest("run", "joint", 2, "one", "{}"))


def test_objects_do_not_travel():
    """An array that would need pickle, or is of a type we do not send, raises at the sender."""
    for array in (np.array([None]), np.zeros(2, np.complex64), np.array(["name"])):
        with pytest.raises(TypeError, match="travel"):
            client.messages.encode_reply(SiteReply("one", "joint", 1, 5, {"T": {"a": array}}))


def test_every_phase_has_a_message_type():
    """The types that the hub sends are those that the client app registers."""
    from client.app import app

    assert set(server.messages.TYPES.values()) == set(app._registered_funcs)
