"""The exceptions of the farm: their sentences and facts."""

from __future__ import annotations

import pytest

from framefarm.core import errors
from framefarm.core.errors import Conflict, FieldError, InFlight, InvalidInput, TooMany, Unavailable


def test_invalid_input_names_up_to_five_fields_in_its_sentence_and_all_in_its_errors() -> None:
    bad = [FieldError(f"f{n}", "is bad", n) for n in range(6)]
    error = InvalidInput(bad)
    assert str(error) == error.detail == "; ".join(f"f{n}: is bad" for n in range(5))
    assert error.errors == tuple(bad)
    assert str(InvalidInput(bad, "Two fields do not fit.")) == "Two fields do not fit."


def test_a_single_field_error_carries_what_was_given() -> None:
    (field,) = InvalidInput.of("frames", "must be a spec", "x").errors
    assert field.as_dict() == {"field": "frames", "message": "must be a spec", "given": "x"}
    assert InvalidInput.of("frames", "is missing").errors == (FieldError("frames", "is missing", None),)


def test_a_conflict_carries_its_facts() -> None:
    error = Conflict("The job is failed.", status="failed")
    assert str(error) == error.detail == "The job is failed."
    assert error.facts == {"status": "failed"}
    assert Conflict("No.").facts == {}


def test_errors_that_pass_carry_seconds_to_wait() -> None:
    assert InFlight("Wait.").retry_after_seconds == 1
    for error in (InFlight("Wait."), TooMany("Wait.", 30), Unavailable("Wait.", 9)):
        assert str(error) == error.detail == "Wait."
    assert TooMany("Wait.", 30).retry_after_seconds == 30
    assert Unavailable("Wait.").retry_after_seconds == 5
    assert Unavailable("Wait.", 9).retry_after_seconds == 9


@pytest.mark.parametrize("name", ["NotAuthenticated", "NotAllowed", "NotFound", "TooLarge", "WrongKind"])
def test_every_error_is_a_farm_error_with_a_title_of_its_own(name: str) -> None:
    error = getattr(errors, name)("Sentence.")
    assert isinstance(error, errors.FarmError)
    assert (str(error), error.detail) == ("Sentence.", "Sentence.")
    assert error.title != errors.FarmError.title
