"""optuna-dashboard on loopback, behind a token."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from http.cookies import SimpleCookie
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from optuna.artifacts import FileSystemArtifactStore

from gqasearch.errors import UserError
from gqasearch.sweeps.optimisers import quiet_optuna
from gqasearch.sweeps.study import Place

HOST = "127.0.0.1"
COOKIE = "gqasearch_token"

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: requests would hide the address."""


def with_token(application: Application, token: str) -> Application:
    """Only for browsers that came with ``/?token=...`` once; a cookie remembers them."""

    def checked(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        given = parse_qs(environ.get("QUERY_STRING", "")).get("token", [""])[0]
        if secrets.compare_digest(given.encode(), token.encode()):
            cookie = f"{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/"
            start_response("303 See Other", [("Location", "/dashboard"), ("Set-Cookie", cookie)])
            return [b""]
        cookies = SimpleCookie(environ.get("HTTP_COOKIE", ""))
        known = cookies[COOKIE].value if COOKIE in cookies else ""
        if not secrets.compare_digest(known.encode(), token.encode()):
            start_response("403 Forbidden", [("Content-Type", "text/plain")])
            return [b"open the address that gqasearch printed, with its token\n"]
        return application(environ, start_response)

    return checked


def serve(place: Place, port: int, announce: Callable[[str], None]) -> None:
    """Serve until interrupted; ``announce`` is told the address, token included."""
    try:
        from optuna_dashboard import wsgi
    except ImportError:
        raise UserError("the dashboard is not installed: pip install 'gqasearch[dashboard]'") from None
    token = secrets.token_urlsafe(24)
    store = FileSystemArtifactStore(str(place.artifacts)) if place.artifacts.is_dir() else None
    with quiet_optuna():
        application = with_token(wsgi(place.storage.rdb, artifact_store=store), token)
    try:
        server = make_server(HOST, port, application, server_class=_Server, handler_class=_Silent)
    except OSError as error:
        raise UserError(f"port {port} of {HOST} cannot be used: {error.strerror}; give another --port") from None
    with server:
        announce(f"http://{HOST}:{server.server_port}/?token={token}")
        server.serve_forever()
