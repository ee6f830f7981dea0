"""The one error of this package."""


class WireError(ValueError):
    """Bytes or text from outside do not have the form that the protocol gives them.

    Every decoder and parser of `kmsd.wire` raises this for bad input, and only this; encoders raise it for a value that
    is out of range or of the wrong length. The text says what was expected and what was found, and carries at most a
    few words of the input.
    """
