"""How a browser comes in: sessions, one-time links, and what another site sends."""

import pytest
from fastapi import Request
from fastapi.testclient import TestClient
from starlette.datastructures import Headers

from shared.http.access import AccessKeys, Grant, Scope
from shared.http.app import ADMIN, READ, create_app
from shared.http.sessions import LINK_S, MAX_SESSIONS, SESSION_S, Sessions
from tests.fakes.access import LOCAL, PLENTY
from tests.unit.inspector.told import StillClock


def may(scope: Scope, key: str = "k") -> Grant:
    return Grant(key, scope)


def with_cookie(sessions: Sessions, token: str) -> Headers:
    return Headers({"cookie": f"other=1; {sessions.cookie}={token}"})


def scope_of(sessions: Sessions, token: str) -> Scope | None:
    found = sessions.caller(with_cookie(sessions, token))
    return found[1].scope if found else None


def test_a_session_ends_with_its_time_and_its_log_out() -> None:
    clock = StillClock()
    sessions = Sessions("r1", clock)
    first, second = sessions.begin(may(Scope.READ)), sessions.begin(may(Scope.ADMIN))
    assert (scope_of(sessions, first), scope_of(sessions, second)) == (Scope.READ, Scope.ADMIN)
    sessions.end(with_cookie(sessions, second))
    assert scope_of(sessions, second) is None
    clock.now_s += SESSION_S
    assert scope_of(sessions, first) is None


def test_a_link_works_once_and_not_for_long() -> None:
    clock = StillClock()
    sessions = Sessions("r1", clock)
    link, late = sessions.new_link(may(Scope.ASK)), sessions.new_link(may(Scope.ASK))
    assert (sessions.redeem(link), sessions.redeem(link)) == (may(Scope.ASK), None)
    assert sessions.redeem("made up") is None
    clock.now_s += LINK_S
    assert sessions.redeem(late) is None


def test_a_session_is_no_link_and_tokens_tell_nothing_of_each_other() -> None:
    sessions = Sessions("r1", StillClock())
    assert sessions.redeem(sessions.begin(may(Scope.ADMIN))) is None
    assert scope_of(sessions, sessions.new_link(may(Scope.ADMIN))) is None
    caller = sessions.caller(with_cookie(sessions, token := sessions.begin(may(Scope.READ))))
    assert caller is not None
    assert caller[0] not in token


def test_runs_of_one_host_do_not_share_a_cookie() -> None:
    assert Sessions("r1", StillClock()).cookie != Sessions("r2", StillClock()).cookie


def test_too_many_sessions_of_a_key_end_its_oldest_and_nobody_elses() -> None:
    sessions = Sessions("r1", StillClock())
    other = sessions.begin(may(Scope.ADMIN, "another"))
    tokens = [sessions.begin(may(Scope.READ)) for _ in range(MAX_SESSIONS + 1)]
    assert scope_of(sessions, tokens[0]) is None
    assert scope_of(sessions, tokens[1]) is Scope.READ
    assert scope_of(sessions, other) is Scope.ADMIN


@pytest.mark.parametrize("cookie", ["", "opcod", "a=b; ;;=", '\\"', "x" * 9000])
def test_a_broken_cookie_is_no_session(cookie: str) -> None:
    assert Sessions("r1", StillClock()).caller(Headers({"cookie": cookie})) is None


def guarded(keys: AccessKeys | None, sessions: Sessions | None) -> TestClient:
    app = create_app("test", ready=lambda: None, keys=keys, limits=PLENTY, sessions=sessions)

    @app.get("/page", dependencies=READ)
    def page(request: Request) -> str:
        return str(request.state.scope.word)

    @app.post("/act", dependencies=ADMIN)
    def act() -> str:
        return "done"

    return TestClient(app, follow_redirects=False, base_url=LOCAL)


@pytest.fixture
def sessions() -> Sessions:
    return Sessions("r1", StillClock())


@pytest.fixture
def client(sessions: Sessions) -> TestClient:
    return guarded(AccessKeys({"adm": Scope.ADMIN}), sessions)


def test_a_session_does_what_its_scope_says(client: TestClient, sessions: Sessions) -> None:
    client.cookies.set(sessions.cookie, sessions.begin(may(Scope.READ)))
    assert client.get("/page").json() == "read"
    assert client.post("/act", headers={"sec-fetch-site": "same-origin"}).status_code == 403


def test_a_page_without_a_session_leads_to_the_login_and_a_script_gets_401(client: TestClient) -> None:
    answer = client.get("/page?x=1", headers={"accept": "text/html"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=%2Fpage%3Fx%3D1")
    assert client.get("/page").status_code == 401
    assert client.post("/act", headers={"authorization": "Bearer wrong"}).status_code == 401


@pytest.mark.parametrize(
    ("seen", "wanted"),
    [
        ("http://box:9000/page?x=1#part", "%2Fpage%3Fx%3D1"),
        ("https://evil.invalid", "%2F"),
        ("http://[", "%2F"),
        ("", "%2F"),
    ],
)
def test_a_part_of_a_page_is_not_the_login_but_says_where_that_is(client: TestClient, seen: str, wanted: str) -> None:
    """htmx would follow a redirect, and show the login in the page's part; hx-sse asks for a stream as it does."""
    asked = {"hx-request": "true", "hx-current-url": seen}
    for accept in ("text/html", "text/html, text/event-stream"):
        answer = client.get("/page", headers=asked | {"accept": accept})
        assert (answer.status_code, answer.headers["hx-redirect"]) == (401, f"/login?next={wanted}")


def test_what_was_sent_without_a_session_leads_back_to_the_page_that_sent_it(client: TestClient) -> None:
    headers = {"accept": "text/html", "origin": LOCAL, "referer": f"{LOCAL}/page?x=1"}
    answer = client.post("/act", headers=headers)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=%2Fpage%3Fx%3D1")


OURS = {"host": "box:9000"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"origin": "http://box:9000"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "none"}, 403),
        ({"origin": "http://box:9001"}, 403),
        ({"origin": "https://evil.invalid"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://["}, 403),
        ({"origin": "http://box:99999999"}, 403),
        ({"origin": "chrome-extension://box:9000"}, 403),
        ({}, 403),
    ],
    ids=str,
)
def test_what_another_site_sends_is_refused(
    client: TestClient, sessions: Sessions, headers: dict[str, str], status: int
) -> None:
    client.cookies.set(sessions.cookie, sessions.begin(may(Scope.ADMIN)), domain="box.local")
    cookie = {"cookie": f"{sessions.cookie}={sessions.begin(may(Scope.ADMIN))}"}
    assert client.post("/act", headers=OURS | cookie | headers).status_code == status


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://box", "box:80"),
        ("https://box", "box:443"),
        ("https://box:443", "box"),
        ("https://Box", "bOX"),
        ("http://[::1]:9000", "[::1]:9000"),
    ],
)
def test_a_page_may_write_its_own_address_as_it_likes(
    client: TestClient, sessions: Sessions, origin: str, host: str
) -> None:
    cookie = f"{sessions.cookie}={sessions.begin(may(Scope.ADMIN))}"
    assert client.post("/act", headers={"cookie": cookie, "origin": origin, "host": host}).status_code == 200


PROXIED = {"origin": "https://page.example", "host": "upstream:8000"}


def test_behind_a_proxy_that_changes_host_the_browsers_own_word_is_enough(
    client: TestClient, sessions: Sessions
) -> None:
    cookie = {"cookie": f"{sessions.cookie}={sessions.begin(may(Scope.ADMIN))}"}
    assert client.post("/act", headers=PROXIED | cookie | {"sec-fetch-site": "same-origin"}).status_code == 200


def test_without_that_word_the_refusal_names_the_header_that_the_proxy_must_pass_on(
    client: TestClient, sessions: Sessions
) -> None:
    cookie = {"cookie": f"{sessions.cookie}={sessions.begin(may(Scope.ADMIN))}"}
    answer = client.post("/act", headers=PROXIED | cookie)
    assert answer.status_code == 403
    message = answer.json()["error"]["message"]
    assert "its Origin is 'https://page.example' and its Host 'upstream:8000'" in message
    assert "proxy_set_header Host $http_host" in message


def test_a_bearer_key_needs_no_origin(client: TestClient) -> None:
    assert client.post("/act", headers={"authorization": "Bearer adm"}).status_code == 200


@pytest.mark.parametrize("with_sessions", [True, False])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://localhost"}, 200),
        ({"origin": "http://127.0.0.1:8000", "host": "127.0.0.1:8000", "sec-fetch-site": "same-origin"}, 200),
        ({"origin": "http://[::1]:8000", "host": "[::1]:8000"}, 200),
        ({"authorization": "Bearer none", "origin": "app://a-client"}, 200),
        ({"host": "10.0.0.7:8000"}, 200),
        ({"host": "app.localhost"}, 200),
        ({"origin": "https://evil.invalid"}, 403),
        ({"origin": "https://evil.invalid", "sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "evil.invalid:8000"}, 403),
        ({"host": "evil.invalid:8000", "origin": "http://evil.invalid:8000"}, 403),
        ({"host": "evil.invalid:8000", "authorization": "Bearer none"}, 403),
        ({"host": "localhost:8000", "origin": "http://evil.invalid:8000", "sec-fetch-site": "same-origin"}, 403),
    ],
    ids=str,
)
def test_without_keys_no_other_site_can_act_on_any_service(
    sessions: Sessions, with_sessions: bool, headers: dict[str, str], status: int
) -> None:
    client = guarded(None, sessions if with_sessions else None)
    assert client.post("/act", headers=headers).status_code == status


def test_without_keys_a_site_that_points_its_name_here_reads_nothing_and_people_learn_what_to_do(
    sessions: Sessions,
) -> None:
    answer = guarded(None, None).get("/page", headers={"host": "evil.invalid:8000"})
    assert answer.status_code == 403
    assert "not 'evil.invalid:8000'" in (message := answer.json()["error"]["message"])
    assert "http://localhost" in message and "OPCOD_KEY_FILE" in message
    assert (
        guarded(AccessKeys({"adm": Scope.ADMIN}), sessions).get("/page", headers={"host": "any.name"}).status_code
        == 401
    )


@pytest.mark.parametrize(
    "others",
    [
        "a=with blank; {}",
        "{}; a=with blank",
        'a="quoted; {}',
        "a=b=c; =; ;; {}",
        '{"json": [1, 2]}; {}',
        'a=\\"; {}; b=\\',
        "pr\xe9f=\xff; {}",
        "{}",
        "{}; {}",
        "[]=x; a,b=c; {}",
    ],
)
def test_a_session_is_found_beside_whatever_other_applications_of_the_host_set(sessions: Sessions, others: str) -> None:
    own = f"{sessions.cookie}={sessions.begin(may(Scope.READ))}"
    headers = Headers(raw=[(b"cookie", others.replace("{}", own).encode("latin-1"))])
    assert sessions.caller(headers) is not None
    sessions.end(headers)
    assert sessions.caller(headers) is None


def test_a_session_is_found_beside_another_cookie_of_its_name_and_in_a_second_header(sessions: Sessions) -> None:
    own, stale = f"{sessions.cookie}={sessions.begin(may(Scope.READ))}", f"{sessions.cookie}=old"
    for lines in ([f"{stale}; {own}"], [f"{own}; {stale}"], ["a=b", own], [own, stale]):
        assert sessions.caller(Headers(raw=[(b"cookie", line.encode()) for line in lines])) is not None
