"""Access control: requests need the secret of the printed address, and must come from the page itself."""

from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from secrets import compare_digest
from urllib.parse import parse_qs, urlsplit

# Headers of all responses. The page loads nothing from other sites, cannot be embedded in other pages, and does not
# send its address to other sites.
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
        Application that gets the accepted requests.
    token : str
        Secret that is part of the printed address. A browser that opens this address gets the secret as a cookie.
        Requests without this cookie are refused, because other users of the same machine can reach its ports, too.
    names : set of str, default=()
        Host names under which the page may be requested, in addition to localhost.

    Notes
    -----
    Two attacks by other web sites are refused:

    * A site can let its own host name point to this machine (DNS rebinding). The Host header of such a request contains
      the host name of the site. A request is therefore accepted only if its Host header contains an IP address or a
      known host name. The host name of the site is neither of the two.
    * A page of another site can send requests to this machine. The Origin header of these requests names the other
      site. Browsers send this header when they open a web socket, and with every request except a plain GET.
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
            refusal = "Open the address that was printed when the page was started. The address contains a key."
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
        """Return the reason to refuse a request, or None to accept the request. The secret is not checked here."""
        host, origin = _header(scope, b"host"), _header(scope, b"origin")
        if not self._is_known(host):
            return f"Expected a request for an IP address or for {' or '.join(sorted(self.names))}, got another name."
        is_unsafe = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD")
        if (origin is None and is_unsafe) or (origin is not None and urlsplit(origin).netloc != host):
            return "Expected a request from the page itself, got one from another origin."
        # A plain GET has no Origin header. Another site may contain a link to the page, but must not load the page as a
        # script or in a frame.
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
