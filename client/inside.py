"""The hub's app at a hospital's site: a process that is confined, reads one request and writes one answer.

The gate starts it (`client.gate.confine`); it can reach nothing but what it was given. What it writes is checked as a
stranger's word, so nothing here stands for anybody's privacy.
"""

import os
import sys
import traceback

REQUEST = 0
"""The file that the request is read from: standard input."""


def main(reply_to: int) -> None:
    """Answer the request on standard input, by the file descriptor `reply_to`."""
    from client import pipe
    from client.answer import answer
    from client.app import code_of
    from configs.schema import from_json
    from sst_models.training.memory import keep_freed_on
    from sst_models.wire.exchange import SiteReply

    with open(REQUEST, "rb") as file:
        request, site = pipe.read_request(file.read())
    try:
        keep_freed_on(from_json(request.experiment).grid.shape)
        reply = answer(request, site)
    except Exception as error:  # its text goes to the gate's log alone, its code to the gate
        traceback.print_exception(error, file=sys.stderr)
        reply = SiteReply(request.site, request.phase, request.round, 0, error=code_of(error))
    with open(reply_to, "wb") as file:
        file.write(pipe.write_reply(reply))
    sys.stderr.flush()
    os._exit(0)  # whatever a library still has to tidy up: the answer is out
