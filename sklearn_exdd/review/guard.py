"""Access control: only users who know the secret address may use the page, and only from the page itself."""

from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from secrets import compare_digest
from urllib.parse import parse_qs, urlsplit

# The page loads nothing from other sites, must not be embedded in other pages, and sends its address to nobody.
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Guard:
    """ASGI middleware that refuses unauthorized requests.

    Parameters
    ----------
    app : ASGI application
    token : str
        Secret in the address that is printed for the user. Opening the address sets a cookie, and no request is served
        without it, because other users of the same machine can reach its ports, too.
    names : set of str, default=()
        Host names, besides localhost, under which the page may be requested.

    Notes
    -----
    A web site whose name is made to point to this machine (DNS rebinding) is recognised by the Host header, which
    contains the name of the site. Requests to IP addresses and localhost are accepted, because a site cannot make its
    name look like these. Pages of other origins are recognised by the Origin header, which browsers send with each
    handshake of a web socket and each request other than a plain GET.
    """

    def __init__(self, app, token, names=()):
        self.app = app
        self.token = token
        self.names = {"localhost", *(name.lower() for name in names)}

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        refusal, cookie = self._refusal(scope), f"review_{scope['server'][1]}"
        is_page = scope["type"] == "http" and scope["method"] == "GET" and scope["path"] == "/"
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[-1]
        if not refusal and is_page and self._is_token(given):
            return await _answer(
                send,
                303,
                "Welcome",
                Location="/",
                **{"Set-Cookie": f"{cookie}={self.token}; HttpOnly; SameSite=Lax; Path=/"},
            )
        if not refusal and not self._is_token(_cookie(scope, cookie)):
            refusal = "Open the address that was printed when the page was started: it contains a key."
        if refusal and scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008, "reason": "refused"})
        if refusal:
            return await _answer(send, 403, refusal)

        async def send_with_headers(message):
            if message["type"] == "http.response.start":
                own = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *own]}
            await send(message)

        await self.app(scope, receive, send_with_headers)

    def _is_token(self, given):
        return compare_digest(given.encode(), self.token.encode())

    def _refusal(self, scope):
        """Return the reason to refuse a request even if it carries the secret, or None."""
        host, origin = _header(scope, b"host"), _header(scope, b"origin")
        if not self._is_known(host):
            return f"Expected a request for an IP address or for {' or '.join(sorted(self.names))}, got another name."
        is_unsafe = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD")
        if (origin is None and is_unsafe) or (origin is not None and urlsplit(origin).netloc != host):
            return "Expected a request from the page itself, got one from another origin."
        # A plain GET has no Origin header. Other sites may link to the page, but not load it as a script or frame.
        is_link = _header(scope, b"sec-fetch-mode") == "navigate" and _header(scope, b"sec-fetch-dest") == "document"
        if _header(scope, b"sec-fetch-site") not in (None, "none", "same-origin") and not is_link:
            return "Expected a request from the page itself, got one from another site."
        return None

    def _is_known(self, host):
        try:
            name = urlsplit(f"//{host}").hostname or ""
            return name in self.names or bool(ip_address(name))
        except ValueError:
            return False


def _header(scope, name):
    values = [value.decode("latin-1") for key, value in scope["headers"] if key == name]
    return values[0] if len(values) == 1 else None if not values else ", ".join(values)


def _cookie(scope, name):
    try:
        return SimpleCookie(_header(scope, b"cookie") or "")[name].value
    except (CookieError, KeyError):
        return ""


async def _answer(send, status, text, **headers):
    headers = {"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-store", **_HEADERS, **headers}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": text.encode()})
