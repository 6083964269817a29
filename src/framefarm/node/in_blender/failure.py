"""A render that cannot be done, as the runner is told of it."""


class Failure(Exception):
    """The render can't be done: a code of core/failure_codes.py, and the facts of its sentence."""

    def __init__(self, cause, **facts):
        super().__init__(cause)
        self.cause = cause
        self.facts = {name: str(fact)[:1500] for name, fact in facts.items()}
