"""How a browser comes in: sessions, one-time links, and what another site sends."""

import pytest
from fastapi import Request
from fastapi.testclient import TestClient
from starlette.datastructures import Headers

from shared.access import Keys, Scope
from shared.http import ADMIN, READ, create_app
from shared.sessions import LINK_S, MAX_SESSIONS, SESSION_S, Sessions
from tests.fakes.access import PLENTY
from tests.unit.inspector.told import StillClock


def with_cookie(sessions: Sessions, token: str) -> Headers:
    return Headers({"cookie": f"other=1; {sessions.cookie}={token}"})


def scope_of(sessions: Sessions, token: str) -> Scope | None:
    found = sessions.caller(with_cookie(sessions, token))
    return found[1] if found else None


def test_a_session_ends_with_its_time_and_its_log_out() -> None:
    clock = StillClock()
    sessions = Sessions("r1", clock)
    first, second = sessions.begin(Scope.READ), sessions.begin(Scope.ADMIN)
    assert (scope_of(sessions, first), scope_of(sessions, second)) == (Scope.READ, Scope.ADMIN)
    sessions.end(with_cookie(sessions, second))
    assert scope_of(sessions, second) is None
    clock.now_s += SESSION_S
    assert scope_of(sessions, first) is None


def test_a_link_works_once_and_not_for_long() -> None:
    clock = StillClock()
    sessions = Sessions("r1", clock)
    link, late = sessions.new_link(Scope.ASK), sessions.new_link(Scope.ASK)
    assert (sessions.redeem(link), sessions.redeem(link)) == (Scope.ASK, None)
    assert sessions.redeem("made up") is None
    clock.now_s += LINK_S
    assert sessions.redeem(late) is None


def test_a_session_is_no_link_and_tokens_tell_nothing_of_each_other() -> None:
    sessions = Sessions("r1", StillClock())
    assert sessions.redeem(sessions.begin(Scope.ADMIN)) is None
    assert scope_of(sessions, sessions.new_link(Scope.ADMIN)) is None
    caller = sessions.caller(with_cookie(sessions, token := sessions.begin(Scope.READ)))
    assert caller is not None
    assert caller[0] not in token


def test_runs_of_one_host_do_not_share_a_cookie() -> None:
    assert Sessions("r1", StillClock()).cookie != Sessions("r2", StillClock()).cookie


def test_too_many_sessions_end_the_oldest() -> None:
    sessions = Sessions("r1", StillClock())
    tokens = [sessions.begin(Scope.READ) for _ in range(MAX_SESSIONS + 1)]
    assert scope_of(sessions, tokens[0]) is None
    assert scope_of(sessions, tokens[1]) is Scope.READ


@pytest.mark.parametrize("cookie", ["", "opcod", "a=b; ;;=", '\\"', "x" * 9000])
def test_a_broken_cookie_is_no_session(cookie: str) -> None:
    assert Sessions("r1", StillClock()).caller(Headers({"cookie": cookie})) is None


def guarded(keys: Keys | None, sessions: Sessions) -> TestClient:
    app = create_app("test", ready=lambda: None, keys=keys, limits=PLENTY, sessions=sessions)

    @app.get("/page", dependencies=READ)
    def page(request: Request) -> str:
        return str(request.state.scope.word)

    @app.post("/act", dependencies=ADMIN)
    def act() -> str:
        return "done"

    return TestClient(app, follow_redirects=False)


@pytest.fixture
def sessions() -> Sessions:
    return Sessions("r1", StillClock())


@pytest.fixture
def client(sessions: Sessions) -> TestClient:
    return guarded(Keys({"adm": Scope.ADMIN}), sessions)


def test_a_session_does_what_its_scope_says(client: TestClient, sessions: Sessions) -> None:
    client.cookies.set(sessions.cookie, sessions.begin(Scope.READ))
    assert client.get("/page").json() == "read"
    assert client.post("/act", headers={"sec-fetch-site": "same-origin"}).status_code == 403


def test_a_page_without_a_session_leads_to_the_login_and_a_script_gets_401(client: TestClient) -> None:
    answer = client.get("/page?x=1", headers={"accept": "text/html"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=%2Fpage%3Fx%3D1")
    assert client.get("/page").status_code == 401
    assert client.post("/act", headers={"authorization": "Bearer wrong"}).status_code == 401


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
        ({"sec-fetch-site": "same-origin", "origin": "https://evil.invalid"}, 403),
        ({}, 403),
    ],
    ids=str,
)
def test_what_another_site_sends_is_refused(
    client: TestClient, sessions: Sessions, headers: dict[str, str], status: int
) -> None:
    client.cookies.set(sessions.cookie, sessions.begin(Scope.ADMIN), domain="box.local")
    cookie = {"cookie": f"{sessions.cookie}={sessions.begin(Scope.ADMIN)}"}
    assert client.post("/act", headers=OURS | cookie | headers).status_code == status


def test_a_bearer_key_needs_no_origin(client: TestClient) -> None:
    assert client.post("/act", headers={"authorization": "Bearer adm"}).status_code == 200


def test_without_keys_other_sites_are_refused_as_well(sessions: Sessions) -> None:
    client = guarded(None, sessions)
    assert client.post("/act").status_code == 200
    assert client.post("/act", headers={"origin": "https://evil.invalid"}).status_code == 403
