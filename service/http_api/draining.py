"""Whether the server is on its way out: the server says so, endpoints and connections ask."""


class Draining:
    """`begun` once no new client should come; what comes nevertheless is still answered."""

    def __init__(self) -> None:
        self.begun = False
