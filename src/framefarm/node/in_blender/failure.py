"""The exception that is reported to the runner as a failed render."""


class Failure(Exception):
    """The render cannot be done. `cause`: a code of core/failure_codes.py; `facts`: those of its sentence."""

    def __init__(self, cause, **facts):
        super().__init__(cause)
        self.cause = cause
        self.facts = {name: str(fact)[:1500] for name, fact in facts.items()}
