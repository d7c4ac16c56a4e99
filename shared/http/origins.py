"""Whether a request comes from this service's own page or from another site's, as the browser that sends it says.

What the headers are worth: no page can set them. Sec-Fetch-Site is the browser's word on page and address as it sees
both, whatever a proxy then does to Host, but it is sent to https and localhost only. Origin comes with whatever may
change something; it says where the page is from and no more, so it is held against Host. Neither sees DNS rebinding,
where a site points its own name at this machine and so asks itself: only the name in Host tells.
"""

from starlette.datastructures import Headers

from shared.http.addresses import needs_dns, split_place

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_SHOWN_CHARS = 100
PORTS = {"http": 80, "https": 443}


def from_elsewhere(headers: Headers, *, with_keys: bool) -> str | None:
    """Why this is taken for another site's request, and what to do; None if it is not.

    with_keys: a cookie is needed to do anything, and is sent to the name that it was given by. So Sec-Fetch-Site is
    enough, and a proxy may call this service by another name than the page has.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None and site != "same-origin":
        shown = site[:MAX_SHOWN_CHARS]
        return f"expected a request of this service's own page, Sec-Fetch-Site says {shown!r}; open the page itself"
    if origin is None or (site is not None and with_keys) or _is_place(origin, headers.get("host", "")):
        return None
    here, page = headers.get("host", "")[:MAX_SHOWN_CHARS], origin[:MAX_SHOWN_CHARS]
    return (
        f"expected a request of this service's own page, but its Origin is {page!r} and its Host {here!r}; open the "
        "page itself, or if a proxy stands before it, let that pass on the Host it was asked for (nginx: "
        "proxy_set_header Host $http_host)"
    )


def says_its_origin(headers: Headers) -> bool:
    return "sec-fetch-site" in headers or "origin" in headers


def is_malformed(host: str | None) -> bool:
    """Whether a Host header is neither a name nor an address. One that is missing is not: HTTP/1.0 has none."""
    return host is not None and split_place(host) is None


def may_be_rebound(host: str | None) -> bool:
    """Whether the name asked for is one that any site may point here, which localhost and addresses are not."""
    found = split_place(host) if host is not None else None
    return found is not None and needs_dns(found[0])


def _is_place(origin: str, host: str) -> bool:
    """Whether pages of `origin` are at `host`; either may leave out the port that its scheme implies."""
    scheme, _, rest = origin.partition("://")
    page, here, implied = split_place(rest), split_place(host), PORTS.get(scheme)
    if page is None or here is None or implied is None:
        return False
    return (page[0], page[1] or implied) == (here[0], here[1] or implied)
