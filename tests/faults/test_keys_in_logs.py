"""Keys, prompts and answers stay out of the logs, whatever a caller sends."""

import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

import httpx2

from shared.http.access import new_keys, read_keys
from tests.fakes.waiting import WAIT_S

PROMPT = "a question that nobody else should read"


def test_f24_no_key_and_no_body_is_in_a_services_log(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(new_keys())
    key, wrong = read_keys(tmp_path / "key").strongest, secrets.token_urlsafe(32)
    with (tmp_path / "log").open("ab") as log:
        command = [sys.executable, "-m", "tests.fakes.keyed_child", str(tmp_path / "url"), str(tmp_path / "key")]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ)
    try:
        deadline = time.monotonic() + WAIT_S
        while not (tmp_path / "url").exists():
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.02)
        with httpx2.Client(base_url=(tmp_path / "url").read_text(), trust_env=False) as client:
            answers = [
                client.post(path, json={"prompt": PROMPT}, headers={"Authorization": f"Bearer {given}"})
                for path in ("/refuses", "/breaks", f"/nowhere?key={key}")
                for given in (key, wrong, f"{key}x")
            ]
    finally:
        process.terminate()
        assert process.wait(timeout=WAIT_S) == 0
    assert [answer.status_code for answer in answers] == [500, 401, 401, 500, 401, 401, 404, 401, 401]
    # After an error that nobody expected the server ends the connection, and says so before the next request is sent.
    assert [answer.headers.get("connection") for answer in answers] == [None] * 3 + ["close"] + [None] * 5
    text = (tmp_path / "log").read_text()
    assert "told to" in text and "unexpected error" in text
    for secret in (key, wrong, PROMPT, *(line.split()[1] for line in (tmp_path / "key").read_text().splitlines())):
        assert secret not in text
