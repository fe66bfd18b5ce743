"""The proxy that makes the network fail."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from runcast.testing.proxy import Proxy

BODY = b"x" * 3000


class Handler(BaseHTTPRequestHandler):
    """Remembers what it was sent, and answers with a body of known size."""

    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self):
        self.server.seen.append((self.path, b""))
        self._answer()

    do_HEAD = do_GET

    def do_POST(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, body))
        self._answer()

    def _answer(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(BODY)

    def log_message(self, *arguments: object):
        pass


@pytest.fixture
def server():
    """A real HTTP server that keeps connections open; `seen` are the requests it handled."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        server.seen = []
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(server):
    with Proxy(server.server_port) as proxy:
        yield proxy


@pytest.fixture
def client(proxy):
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=60)
    yield connection
    connection.close()


def get(client, path="/"):
    client.request("GET", path)
    response = client.getresponse()
    return response.status, response.read()


def paths(server):
    return [path for path, _ in server.seen]


class TestForwarding:
    def test_requests_on_one_connection_all_pass(self, client, server, proxy):
        """A connection that is kept open carries one request after the other to the server."""
        for number in range(3):
            assert get(client, f"/{number}") == (200, BODY)
        assert paths(server) == ["/0", "/1", "/2"]
        assert (proxy.passed, proxy.struck) == (3, 0)

    def test_bodies_arrive_whole(self, client, server):
        """A large body, and one in chunks, reach the server as they were sent."""
        large = bytes(range(256)) * 5000
        client.request("POST", "/large", large)
        assert client.getresponse().read() == BODY
        client.request("POST", "/chunks", iter([b"one", b"two" * 40000, b"three"]), encode_chunked=True)
        assert client.getresponse().read() == BODY
        assert server.seen == [("/large", large), ("/chunks", b"one" + b"two" * 40000 + b"three")]

    def test_clients_are_served_at_once(self, proxy, server):
        """A client whose request is dropped keeps nobody else waiting."""
        proxy.drop(times=1)
        with socket.create_connection(("127.0.0.1", proxy.port)) as silent:
            silent.sendall(b"GET /silent HTTP/1.1\r\n\r\n")
            until(lambda: proxy.struck == 1)
            other = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=60)
            assert get(other) == (200, BODY)
            other.close()

    def test_a_server_that_is_not_there_breaks_the_connection(self):
        """Without a server behind it, the proxy takes a request and ends the connection."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            with Proxy(free.getsockname()[1]) as alone:
                lonely = http.client.HTTPConnection("127.0.0.1", alone.port, timeout=60)
                with pytest.raises(ConnectionError):
                    get(lonely)
                assert alone.passed == 0


class TestFaults:
    def test_delay_comes_before_each_request(self, client, server, proxy):
        """With a delay each request takes at least that long, on an open connection too, and still arrives."""
        get(client)
        proxy.delay(0.2)
        start = time.monotonic()
        assert get(client) == get(client) == (200, BODY)
        assert time.monotonic() - start > 0.3  # a slow machine only makes it more
        assert (proxy.passed, proxy.struck) == (3, 2)

    def test_healing_ends_a_delay(self, client, proxy):
        """A request that is being delayed goes on at once when all is well again."""
        proxy.delay(3600)
        client.request("GET", "/")
        until(lambda: proxy.struck == 1)
        proxy.heal()
        assert client.getresponse().read() == BODY

    def test_dropped_request_is_never_answered(self, client, server, proxy):
        """A dropped request doesn't reach the server; its connection ends, unanswered, when the fault is over."""
        get(client, "/before")
        proxy.drop()
        client.request("GET", "/dropped")
        until(lambda: proxy.struck == 1)
        client.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.sock.recv(1)
        client.sock.settimeout(60)
        proxy.heal()
        with pytest.raises(ConnectionError):
            client.getresponse()
        client.close()
        get(client, "/after")
        assert paths(server) == ["/before", "/after"]

    def test_refused_until_healed_on_the_same_port(self, client, server, proxy):
        """While it refuses, open connections are cut and new ones refused; then the same port answers again."""
        get(client, "/before")
        proxy.refuse()
        assert proxy.struck == 1
        with pytest.raises(ConnectionError):
            get(client, "/cut")
        client.close()
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                get(client, "/refused")
            client.close()
        proxy.heal()
        assert get(client, "/after") == (200, BODY)
        assert paths(server) == ["/before", "/after"]

    def test_a_delayed_request_is_lost_when_the_line_is_cut(self, client, server, proxy):
        """A request that is on its way when connections are cut never arrives."""
        proxy.delay(3600)
        client.request("GET", "/lost")
        until(lambda: proxy.struck == 1)
        proxy.refuse()
        with pytest.raises(ConnectionError):
            client.getresponse()
        proxy.heal()
        client.close()
        get(client, "/after")
        assert paths(server) == ["/after"]

    def test_reset_breaks_an_answer_to_what_the_server_did(self, client, server, proxy):
        """A reset lets the server do its work and breaks its answer off with a RST."""
        proxy.reset(times=1)
        client.request("GET", "/done")
        with pytest.raises(ConnectionResetError):
            client.getresponse().read()
        client.close()
        assert get(client, "/after") == (200, BODY)
        assert paths(server) == ["/done", "/after"]
        assert (proxy.passed, proxy.struck) == (2, 1)

    @pytest.mark.parametrize("status", [401, 429, 500, 503])
    def test_status_is_answered_for_the_server(self, status, client, server, proxy):
        """So many requests are answered with the status, on the same connection; then the server gets them."""
        proxy.answer(status, times=2)
        assert [get(client)[0] for _ in range(3)] == [status, status, 200]
        assert paths(server) == ["/"]
        assert (proxy.passed, proxy.struck) == (1, 2)

    def test_status_says_when_to_come_again(self, client, proxy):
        """The header Retry-After goes with the status, and the body of the request is read."""
        proxy.answer(429, retry_after=1)
        client.request("POST", "/", b"x" * 1_000_000)
        response = client.getresponse()
        assert (response.status, response.headers["Retry-After"]) == (429, "1")
        response.read()
        client.request("HEAD", "/")
        assert client.getresponse().status == 429
        proxy.heal()

    def test_status_that_http_does_not_know(self, proxy):
        """A status that HTTP doesn't have is an error at once."""
        with pytest.raises(ValueError, match="999"):
            proxy.answer(999)


class TestClose:
    def test_port_is_free_afterwards(self, server):
        """A proxy gives its port and thread back, also while requests are pending, and closes twice."""
        threads = threading.active_count()
        proxy = Proxy(server.server_port)
        proxy.drop()
        with socket.create_connection(("127.0.0.1", proxy.port)) as silent:
            silent.sendall(b"GET / HTTP/1.1\r\n\r\n")
            until(lambda: proxy.struck == 1)
            proxy.close()
            proxy.close()
            assert silent.recv(1) == b""
        assert threading.active_count() == threads
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", proxy.port))


def until(condition):
    """Waits until it is so; the test's own time-out ends the wait."""
    while not condition():
        time.sleep(0.01)
