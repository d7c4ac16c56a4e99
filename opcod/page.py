"""The inspector's page of a deployment: its address, with a link that logs a browser in, once."""

import httpx2
from pydantic import ValidationError

from opcod.local.deployment import Deployment
from shared.contracts.http import LoginLink

TIMEOUT_S = 5.0


def page_address(deployment: Deployment) -> str | None:
    """With a login link while the inspector answers, plain otherwise: nobody should wait or fail for it. None while no
    inspector is up.

    The link does what the deployment's strongest key may, works once and for ten minutes.
    """
    if deployment.inspector is None:
        return None
    url = deployment.inspector.url
    headers = {"Authorization": f"Bearer {deployment.key()}", "Content-Length": "0"}
    try:
        answer = httpx2.post(f"{url}/v1/login-link", headers=headers, timeout=TIMEOUT_S, trust_env=False)
        link = LoginLink.model_validate_json(answer.content)
        return (link.public_url or url) + link.path
    except (httpx2.HTTPError, ValidationError):
        return url
