"""Strangers, thieves and liars at a running federation, and kills: none gets in, none stops the run, each is logged.

SST_INTRUDERS is the number of random messages (300); `make intruders` sends 10,000.
"""

import json
import os
import random
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest, RegisterNodeFleetRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from client import bundle, launch
from client.home import Home
from live import ROOT, SHORT, SITES, TINY, Live, strike, undisturbed
from server.authority import make_authority

MESSAGES = int(os.environ.get("SST_INTRUDERS", "300"))
PRESET = TINY if MESSAGES > 300 else SHORT
LIARS = {"mallory": ("replay", "nan", "shape"), "trudy": ("undeclared", "names", "nan")}
"""Admitted sites with code of their own, and how each of their replies to the first round is wrong."""

KILLED = (("site", "flwr-clientapp"), ("hub", "flower-superlink"))
"""Who is killed once the liars are out. `make chaos` kills the hub's app, too, for which Flower's lease is a minute."""

HERE, THERE = "127.0.0.1", "127.0.0.2"  # where the sites ask from, and the strangers

LIE = '''

_honest, _return = encode_reply, return_nonce


def encode_reply(reply, parcel=None, head=""):
    from dataclasses import replace

    import numpy as np

    if reply.phase != "register":
        return _honest(reply, parcel, head)
    how, whole = _how(), reply.arrays["T"]
    if how == "nan":
        whole = {name: np.full_like(array, np.nan) for name, array in whole.items()}
    elif how == "shape":
        whole = {name: np.ones(3, np.float32) for name in whole}
    elif how == "names":
        whole = {f"{name}.stolen": array for name, array in whole.items()}
    parts = {"T": whole} | ({"scan": {"x": np.ones((32, 32, 32), np.float32)}} if how == "undeclared" else {})
    return _honest(replace(reply, arrays=parts), None, head)


def return_nonce(asked, content):
    """Bring back the nonce of an older request, where that is the lie."""
    _return(asked, content)
    if content.config_records["meta"]["phase"] == "register" and _told.get("how") == "replay":
        content.config_records["meta"]["nonce"] = "0" * 32


_told = {}


def _how():
    import os
    from pathlib import Path

    path = Path(os.environ["SST_LIES"])
    how, *left = path.read_text().split(",")
    path.write_text(",".join([*left, how]))
    _told["how"] = how
    return how
'''
"""Put at the end of a liar's `client/messages.py`."""

pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.skipif(sys.platform != "linux", reason="asks from several addresses of loopback"),
]


def start_liar(live: Live, name: str) -> None:
    """Start a site whose owner has changed the app, and the command that would have refused that."""
    own: Home = live.homes[name]
    folder = own.flower / "apps" / bundle.read_bundle(own.bundle).folder
    bundle._writable(folder)
    file = folder / "client" / "messages.py"
    file.chmod(0o644)
    file.write_text(file.read_text() + LIE)
    tools = launch.write_tools(own)
    code = "from flwr.supernode.cli import flwr_clientapp; flwr_clientapp()"
    (tools / "flwr-clientapp").write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -P -c '{code}' \"$@\"\n")
    lies = own.folder / "lies.txt"
    lies.write_text(",".join(LIARS[name]))
    variables = {**launch.variables(own), "PATH": f"{tools}:/usr/bin:/bin", "SST_LIES": str(lies)}
    node = str(Path(sys.executable).with_name("flower-supernode"))
    live.run(name, [node, *launch.command(own)[1:]], variables)


class Stranger:
    """Somebody who reaches the hub's port."""

    def __init__(self, live: Live) -> None:
        """Trust the hub's authority, as its certificate is no secret."""
        self.live, self.address = live, live.office.settings.address
        self.authority = ssl.create_default_context(cafile=str(live.office.tls / "ca.crt"))

    def client(self) -> httpx.Client:
        """Give a client that asks from the strangers' address."""
        transport = httpx.HTTPTransport(verify=self.authority, local_address=THERE)
        return httpx.Client(transport=transport, base_url=f"https://{self.address}", timeout=60)

    def announce(self, size: int) -> int:
        """Announce a message of so many bytes, send a few, and give the answer's status."""
        host, port = self.address.split(":")
        with socket.create_connection((HERE, int(port)), 30, (THERE, 0)) as plain:  # noqa: SIM117
            with self.authority.wrap_socket(plain, server_hostname=host) as secure:
                head = f"POST /v1/fleet/push-object HTTP/1.1\r\nHost: {host}\r\nContent-Length: {size}\r\n\r\n"
                secure.sendall(head.encode() + b"x" * 1000)
                return int(secure.recv(1000).split()[1])

    def fleet(self, claimed: ec.EllipticCurvePrivateKey, signs: ec.EllipticCurvePrivateKey) -> FleetHttpClient:
        """Give Flower's own client, that says it is one key's owner and signs with another."""
        signer = NodeAuthHttpInterceptor(signs, claimed.public_key())
        return FleetHttpClient(f"https://{self.address}", interceptors=[signer], verify=self.authority)


def statuses(stranger: Stranger) -> Iterator[tuple[str, int]]:
    """Knock at every door; give what was tried and the hub's answer."""
    with stranger.client() as client:
        empty = PullMessagesRequest(node=Node(node_id=1)).SerializeToString()
        kind = {"content-type": "application/protobuf"}
        for path in ("/v1/fleet/pull-messages", "/v1/fleet/activate-node", "/v1/fleet/get-fab"):
            yield f"no key {path}", client.post(path, content=empty, headers=kind).status_code
        for path in ("/v1/control/start-run", "/v1/runtime/acquire-task", "/", "/health", "/v1/fleet/../control/x"):
            yield f"not the fleet {path}", client.post(path, content=b"", headers=kind).status_code
    yield "5 GB announced", stranger.announce(5_000_000_000)
    plain = httpx.Client(transport=httpx.HTTPTransport(local_address=THERE), timeout=10)
    yield "no TLS", plain.get(f"http://{stranger.address}/v1/fleet/pull-messages").status_code


def impostors(stranger: Stranger, keys: list[ec.EllipticCurvePrivateKey]) -> Iterator[tuple[str, int]]:
    """Come with keys that are nobody's or somebody else's; give what was tried and the answer."""
    unknown, (own, other) = ec.generate_private_key(ec.SECP384R1()), keys
    for what, claimed, signs in (("unregistered key", unknown, unknown), ("another's key", other, own)):
        fleet, key = stranger.fleet(claimed, signs), public_key_to_bytes(claimed.public_key())
        yield what, _answer(lambda f=fleet, k=key: f.ActivateNode(ActivateNodeRequest(public_key=k)))
        yield f"{what}, new", _answer(lambda f=fleet, k=key: f.RegisterNode(RegisterNodeFleetRequest(public_key=k)))
    fleet = stranger.fleet(own, own)
    yield "another's node", _answer(lambda: fleet.PullMessages(PullMessagesRequest(node=Node(node_id=12345))))
    yield (
        "another's name",
        _answer(lambda: fleet.ActivateNode(ActivateNodeRequest(public_key=public_key_to_bytes(other.public_key())))),
    )


def _answer(ask: object) -> int:
    try:
        ask()  # type: ignore[operator]
    except httpx.HTTPStatusError as error:
        return error.response.status_code
    return 200


def noise(stranger: Stranger, number: int, seed: int) -> Counter[int]:
    """Send random bytes to random paths; give how often each status came, 0 for a closed connection."""
    rng, found = random.Random(seed), Counter[int]()
    doors = ("pull-messages", "push-messages", "push-object", "register-node", "activate-node", "get-run", "x")
    kinds = ("application/protobuf", "application/json", "text/plain", "")
    with stranger.client() as client:
        for _ in range(number):
            path = f"/v1/{rng.choice(('fleet', 'fleet', 'fleet', 'control', 'runtime'))}/{rng.choice(doors)}"
            header = {"content-type": rng.choice(kinds), "flwr-public-key": "AA==", "flwr-signature": "AA=="}
            body = rng.randbytes(rng.choice((0, 1, 100, 10_000)))
            try:
                found[client.post(path, content=body, headers=header).status_code] += 1
            except httpx.HTTPError:
                found[0] += 1
    return found


def submit_rogue(live: Live, root: Path) -> Path:
    """Submit a changed app on the hub's loopback, as a user of its machine could; give the file that it would write."""
    copy, mark = root / "rogue", root / "evil.txt"
    for name in ("server", "client", "sst_models", "configs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    for file in ("server/app.py", "client/app.py"):
        text = (copy / file).read_text()
        (copy / file).write_text(f"{text}\nPath({str(mark)!r}).write_text('in')\n")
    tool = str(Path(sys.executable).with_name("flwr"))
    variables = {**os.environ, "FLWR_HOME": str(live.office.flower.resolve()), "NO_PROXY": HERE}
    subprocess.run(
        [tool, "run", str(copy), "hub"], env=variables, cwd=root, check=True, timeout=120, capture_output=True
    )
    return mark


def wrong_authority(stranger: Stranger, root: Path) -> None:
    """Ask with trust in another authority, as a site with another federation's kit does."""
    make_authority(root / "other", "other")
    other = ssl.create_default_context(cafile=str(root / "other" / "ca.crt"))
    client = httpx.Client(transport=httpx.HTTPTransport(verify=other, local_address=THERE))
    with client, pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        client.get(f"https://{stranger.address}/v1/fleet/pull-messages")


def test_nobody_gets_in_and_nothing_stops(tmp_path: Path) -> None:
    """The result is that of the two honest sites alone, undisturbed."""
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    began = time.monotonic()
    with Live(tmp_path, PRESET, names=(*SITES, *LIARS)) as live:
        expected = undisturbed(live, tmp_path / "undisturbed")
        live.start_hub()
        while (tmp_path / "hub.out").read_text().count("may come in") < len(live.homes):
            assert live.running["hub"].poll() is None, (tmp_path / "hub.out").read_text()
            time.sleep(0.5)  # a SuperNode without a registered key ends, and only sst site start brings it back
        for name in SITES:
            live.start_site(name)
        for name in LIARS:
            start_liar(live, name)
        events = live.office.folder / "events.jsonl"
        while not (events.exists() and "register" in events.read_text()):
            assert live.running["hub"].poll() is None, (tmp_path / "hub.out").read_text()
            assert time.monotonic() - began < 300
            time.sleep(0.5)
        keys = [load_ssh_private_key(live.homes[name].key.read_bytes(), None) for name in ("mallory", "left")]
        mark = submit_rogue(live, tmp_path)
        stranger = Stranger(live)
        if live.proxied:
            tried = dict(statuses(stranger))
            print(tried, flush=True)
            assert all(400 <= status < 500 for status in tried.values()), tried
            assert {status for what, status in tried.items() if what.startswith("not the fleet")} == {403}
            assert (tried["5 GB announced"], tried["no TLS"]) == (413, 400)
        claimed = dict(impostors(stranger, keys))  # type: ignore[arg-type]
        print(claimed, flush=True)
        assert all(400 <= status < 500 for status in claimed.values()), claimed
        wrong_authority(stranger, tmp_path)
        with ThreadPoolExecutor(8) as pool:
            noises = [pool.submit(noise, stranger, MESSAGES // 8, seed) for seed in range(8)]
            while events.read_text().count("site.quarantined") < len(LIARS):
                assert live.running["hub"].poll() is None, (tmp_path / "hub.out").read_text()
                time.sleep(0.5)
            killed = [strike(live, target, random.Random(1)) for target in KILLED]  # in the midst of the noise
            print(killed, flush=True)
            heard = sum((one.result() for one in noises), Counter())
        print(dict(heard), flush=True)
        assert not [status for status in heard if 200 <= status < 300], heard
        assert all(killed), killed
        assert live.wait(1800) == 0, (tmp_path / "hub.out").read_text()
        assert live.learnt() == expected
        assert live.readable() == []
        assert not mark.exists()
        told = [json.loads(line) for line in events.read_text().splitlines()]
        out = {event["site"]: event["why"] for event in told if event["event"] == "site.quarantined"}
        assert out == {"mallory": "shape", "trudy": "not-finite"}
        missing = [event["missing"] for event in told if event["event"] == "round.waiting"]
        words = {site: [one[site] for one in missing if site in one] for site in LIARS}
        assert words["mallory"][:2] == ["malformed", "not-finite"]
        assert words["trudy"][:2] == ["undeclared", "names"]
        logs = live.office.logs
        assert "not the approved one" in (logs / "refused.log").read_text()
        if live.proxied:
            refused = Counter(line.split()[2] for line in (logs / "refused-requests.log").read_text().splitlines())
            print(dict(refused), flush=True)
            assert {"400", "401", "403", "413"} <= set(refused)
            assert sum(refused.values()) >= sum(heard.values()) - heard[0]
            assert "unknown ca" in (logs / "proxy.log").read_text()
        with suppress(OSError):
            shutil.rmtree(tmp_path / "rogue")
