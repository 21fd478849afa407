"""What the coordinator refuses, as one type per kind of answer.

The message of each is one line for the person who asked: what is wrong and, where there is one, the fix. The
admin API maps the classes to 404, 409 and 400; the control protocol puts the text into
`RegisterResponse.Error`.
"""

from __future__ import annotations


class CoordinatorError(Exception):
    """Base of the refusals below. `str()` is the one-line message."""


class NotFound(CoordinatorError):
    """The user, node, key or pending registration does not exist."""


class Conflict(CoordinatorError):
    """The wish collides with something that exists: a name, a node key, a user that still owns nodes."""


class Invalid(CoordinatorError):
    """The wish itself is malformed or not permitted."""


class Unavailable(CoordinatorError):
    """The store did not take the write; nothing was changed and the caller may try again."""


class StartupError(CoordinatorError):
    """The coordinator cannot start: bad configuration, busy port, unusable database."""
