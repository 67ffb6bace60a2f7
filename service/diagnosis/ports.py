"""Whether a server could listen, and who does where it could not. Talks to this machine alone."""

import errno
import http.client
import json

from service.diagnosis.findings import Finding
from service.listening import bound_socket, reason_of

_AREA = "port"

_WITHIN_S = 2.0

#: Stand for every address of the machine.
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


def check_port(host: str, port: int) -> Finding:
    """Whether `host`:`port` can be listened on; where it is taken, whether by one of us."""
    name = f"{host}:{port}"
    if port == 0:
        return Finding(_AREA, name, "ok", "a free port is taken at every start")
    try:
        with bound_socket(host, port) as listener:
            # Of two sockets that are bound with SO_REUSEADDR the second learns of the first here.
            listener.listen(1)
    except OSError as error:
        return _taken(name, host, port, error)
    return Finding(_AREA, name, "ok", "free", data={"free": True})


def _taken(name: str, host: str, port: int, error: OSError) -> Finding:
    if error.errno != errno.EADDRINUSE:
        advice = "choose another RTMDET_HOST or RTMDET_PORT"
        return Finding(_AREA, name, "problem", f"cannot listen: {reason_of(error)}", advice)
    data: dict[str, object] = {"free": False}
    if is_ours(_EVERYWHERE.get(host, host), port):
        detail = "an RTMDet server answers there"
        return Finding(_AREA, name, "ok", detail, data=data | {"rtmdet": True})
    return Finding(
        _AREA,
        name,
        "problem",
        "another program listens there",
        f"end it, or choose another RTMDET_PORT; `ss -ltnp 'sport = :{port}'` names it",
        data | {"rtmdet": False},
    )


def is_ours(host: str, port: int) -> bool:
    """Whether what listens there answers `/livez` as this service does."""
    connection = http.client.HTTPConnection(host, port, timeout=_WITHIN_S)
    try:
        connection.request("GET", "/livez")
        answer = connection.getresponse()
        return answer.status == 200 and json.loads(answer.read(4096)) == {"status": "alive"}
    except (OSError, http.client.HTTPException, ValueError):
        return False
    finally:
        connection.close()
