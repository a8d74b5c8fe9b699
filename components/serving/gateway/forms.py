"""multipart/form-data, as `curl -F` sends it."""

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

MOST_PARTS = 8


class FormError(Exception):
    """A body that is no such form."""


def read_form(content_type: str, body: bytes) -> dict[str, bytes]:
    """Content by name of the form's parts; FormError for a body that is cut off, or has a name twice."""
    boundary = parse_options_header(content_type)[1].get("boundary", "")
    if not boundary or not boundary.isascii():
        raise FormError("the form has no boundary")
    decoder = MultipartDecoder(boundary.encode(), max_parts=MOST_PARTS)
    parts: dict[str, list[bytes]] = {}
    name = ""
    try:
        decoder.receive_data(body)
        decoder.receive_data(None)
        while not isinstance(event := decoder.next_event(), Epilogue):
            if isinstance(event, NeedData):
                raise FormError("the form is cut off")
            if isinstance(event, Field | File):
                name = event.name
                if name is None or name in parts:
                    raise FormError("the form has a part without a name, or a name twice")
                parts[name] = []
            elif isinstance(event, Data):
                parts[name].append(event.data)
    except (ValueError, KeyError, TypeError, AttributeError, RequestEntityTooLarge) as error:
        raise FormError(f"no form: {error}") from error
    return {name: b"".join(found) for name, found in parts.items()}
