"""TLS as a URL's options ask for it; imported only where it is used, for it takes 4 MB.

Knows no sockets. Invariant: a certificate is checked, with its host name, unless the options say otherwise.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping


def context(options: Mapping[str, str]) -> ssl.SSLContext:
    """What a connection is secured with. ValueError if a file cannot be used."""
    try:
        made = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
        if certificate := options.get("ssl_certfile"):
            made.load_cert_chain(certificate, options.get("ssl_keyfile"), options.get("ssl_password"))
    except OSError as error:
        files = [
            f"{name}={options[name]}" for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile") if name in options
        ]
        raise ValueError(f"{', '.join(files)}: {error.strerror or error}") from error
    unchecked = options.get("ssl_cert_reqs", "required") == "none"
    if unchecked or options.get("ssl_check_hostname", "true").lower() in ("false", "0", "no"):
        made.check_hostname = False
    if unchecked:
        made.verify_mode = ssl.CERT_NONE
    return made
