"""Patterns of JSON Schema's formats. Each admits only valid values, and some admit fewer than the standard.

RFC 3339 (dates, times, durations), RFC 5321 (email), RFC 1123 (hostname), RFC 791, RFC 4291 (addresses), RFC
3986 (URIs), RFC 6570 (URI templates), RFC 6901 (JSON pointers), RFC 9562 (UUIDs).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_DATE: Final = r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
_TIME: Final = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_BYTE: Final = r"(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_GROUP: Final = "[0-9a-fA-F]{1,4}"
_LABEL: Final = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_TIME_OF_DURATION: Final = "T([0-9]+H([0-9]+M([0-9]+S)?)?|[0-9]+M([0-9]+S)?|[0-9]+S)"
_DATE_OF_DURATION: Final = "([0-9]+Y([0-9]+M([0-9]+D)?)?|[0-9]+M([0-9]+D)?|[0-9]+D)"
_URI_CHARACTER: Final = r"([A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})"
_POINTER: Final = r"(/([^~/]|~[01])*)*"
_COMPRESSED: Final = "|".join(
    f"({_GROUP}:){{{before}}}(:{_GROUP}){{1,{7 - before}}}" for before in range(1, 7)
)
FORMAT_PATTERNS: Final[Mapping[str, str]] = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}T{_TIME}$",
    "duration": f"^P({_DATE_OF_DURATION}({_TIME_OF_DURATION})?|{_TIME_OF_DURATION}|[0-9]+W)$",
    "uuid": r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$",
    "ipv4": rf"^{_BYTE}(\.{_BYTE}){{3}}$",
    "ipv6": f"^(({_GROUP}:){{7}}{_GROUP}|({_GROUP}:){{1,7}}:|:(:{_GROUP}){{1,7}}|::|{_COMPRESSED})$",
    "email": r"^[A-Za-z0-9_+-]+(\.[A-Za-z0-9_+-]+)*@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+$",
    "hostname": rf"^{_LABEL}(\.{_LABEL})*$",
    "uri": f"^[A-Za-z][A-Za-z0-9+.-]*:{_URI_CHARACTER}*(#{_URI_CHARACTER}*)?$",
    "uri-reference": f"^{_URI_CHARACTER.replace(':', '')}*(#{_URI_CHARACTER}*)?$",
    "uri-template": f"^({_URI_CHARACTER}|#|\\{{[A-Za-z0-9_.,+#/;?&=!@|*:%]+\\}})*$",
    "json-pointer": f"^{_POINTER}$",
    "relative-json-pointer": f"^(0|[1-9][0-9]*)(#|{_POINTER})$",
}
