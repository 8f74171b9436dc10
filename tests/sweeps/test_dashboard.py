"""The dashboard listens on loopback alone, and answers those who have its token."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIServer

import pytest

from gqasearch.errors import UserError
from gqasearch.sweeps import dashboard
from tests.sweeps.helpers import started


def test_only_with_the_token_and_only_on_loopback(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, place = started(tmp_path, values)
    servers: list[WSGIServer] = []
    make_server = dashboard.make_server

    def remembered(*arguments: Any, **options: Any) -> Any:
        servers.append(make_server(*arguments, **options))
        return servers[-1]

    monkeypatch.setattr(dashboard, "make_server", remembered)
    announced: list[str] = []
    ready = threading.Event()
    thread = threading.Thread(
        target=dashboard.serve, args=(place, 0, lambda address: (announced.append(address), ready.set()))
    )
    thread.start()
    assert ready.wait(60)
    try:
        assert servers[0].server_address[0] == "127.0.0.1"
        with pytest.raises(UserError, match="give another --port"):
            dashboard.serve(place, servers[0].server_port, announced.append)
        base, _, token = announced[0].partition("/?token=")
        for path in ("/", "/api/studies", "/?token=wrong"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(base + path, timeout=30)
            assert refused.value.code == 403
            refused.value.close()
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        with browser.open(announced[0], timeout=30) as page:
            assert page.status == 200 and b"html" in page.read().lower() and token not in page.url
        with browser.open(f"{base}/api/studies", timeout=30) as answer:
            assert b'"tiny"' in answer.read()
    finally:
        servers[0].shutdown()
        thread.join(30)
        assert not thread.is_alive()
