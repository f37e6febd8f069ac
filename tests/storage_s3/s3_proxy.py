"""A proxy in front of an S3 server that fails, waits and cuts as it is told."""

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

MESSAGES = {
    "InternalError": 500,
    "SlowDown": 503,
    "AccessDenied": 403,
    "InvalidAccessKeyId": 403,
    "SignatureDoesNotMatch": 403,
    "PreconditionFailed": 412,
}
PASSING = ("InternalError", "SlowDown", "refuse", "cut", "half", "lost", "wait")  # what asking again helps


class Request(NamedTuple):
    """What a rule decides by."""

    method: str
    path: str
    number: int  # of all requests so far
    create: bool  # only if there is no such object


class Fault(NamedTuple):
    """What happens to a request; a rule that returns None lets it through."""

    kind: str  # an error of MESSAGES, or one of these:
    # refuse: the connection breaks before anything happens
    # cut: it breaks in the middle of the request's body, and the store forgets what came
    # lost: the store does what was asked, and the connection breaks before the answer
    # half: it breaks in the middle of the answer's body
    # wait: the answer comes late
    seconds: float = 0.0


Rule = Callable[[Request], Fault | None]


def first_time(kind: str, seconds: float = 0.0) -> Rule:
    """Returns a rule by which a request fails when it is made for the first time."""
    seen = set()

    def rule(request: Request) -> Fault | None:
        asked = (request.method, request.path)
        fault = None if asked in seen else Fault(kind, seconds)
        seen.add(asked)
        return fault

    return rule


def seeded(seed: int, share: float, seconds: float = 1.5) -> Rule:
    """Returns a rule by which a `share` of requests fails in one of all passing ways."""

    def rule(request: Request) -> Fault | None:
        draw = random.Random(f"{seed} {request.number}")
        return Fault(draw.choice(PASSING), seconds) if draw.random() < share else None

    return rule


class Proxy:
    """Listens on a port of its own of 127.0.0.1."""

    def __init__(self, port: int) -> None:
        self.rule: Rule = lambda request: None
        self.requests: list[Request] = []
        self.faults: Counter[str] = Counter()
        self._behind = port
        self._lock = threading.Lock()
        self._store = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # connections break here on purpose
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """What AWS_ENDPOINT_URL is to be."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        """Listens no longer."""
        self._server.shutdown()
        self._server.server_close()

    def reset(self) -> None:
        """Lets everything through, and forgets what was."""
        self.rule = lambda request: None
        self.requests, self.faults = [], Counter()

    def fault(self, method: str, path: str, create: bool) -> Fault | None:
        """Returns what is to happen to the next request."""
        with self._lock:
            request = Request(method, path, len(self.requests), create)
            self.requests.append(request)
            fault = self.rule(request)
            if fault is not None:
                self.faults[fault.kind] += 1
        return fault

    def ask(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, list, bytes]:
        """Asks the server behind. One request at a time: its check and its write are two steps, S3's are one."""
        with self._store:
            connection = http.client.HTTPConnection("127.0.0.1", self._behind, timeout=60)
            try:
                connection.request(method, path, body, headers)
                answer = connection.getresponse()
                return answer.status, answer.getheaders(), answer.read()
            finally:
                connection.close()


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 120

    def _handle(self) -> None:
        create = "If-None-Match" in self.headers and self.command == "PUT"
        kind, seconds = self.proxy.fault(self.command, self.path, create) or ("", 0.0)
        length = int(self.headers.get("Content-Length", 0))
        if kind == "refuse":
            return self._break()
        if kind == "cut":
            self.rfile.read(length // 2)
            return self._break()
        body = self.rfile.read(length)
        if kind in MESSAGES:
            error = f"<Error><Code>{kind}</Code><Message>{kind} of the proxy</Message></Error>".encode()
            return self._answer(MESSAGES[kind], [("Content-Type", "application/xml")], error)
        if kind == "wait":
            time.sleep(seconds)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
        answer = self.proxy.ask(self.command, self.path, headers, body)
        if kind == "lost":
            return self._break()
        return self._answer(*answer, half=kind == "half")

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _handle

    def _answer(self, status: int, headers: list, body: bytes, half: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        given = dict(headers).get("Content-Length", "0")
        self.send_header("Content-Length", given if self.command == "HEAD" else str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if half else body)
        if half:
            self._break(now=False)

    def _break(self, now: bool = True) -> None:
        """Closes the connection; `now` as when a router forgets it, else after what was written."""
        if now:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""
