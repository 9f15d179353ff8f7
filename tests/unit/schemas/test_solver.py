"""SolverRecord: a name of a table, one word for how it ran, and never a sentence."""

import pytest
from pydantic import ValidationError

from schemas.solver import SOLVERS, Reason, SolverRecord


@pytest.mark.parametrize("name", ["qaoa+hqc, 3 of 12 windows", "", "-x", "a b", "x" * 101])
def test_a_name_that_would_have_to_be_parsed_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="solver"):
        SolverRecord(solver=name)


@pytest.mark.parametrize("execution", ["none", "device", "device:", "simulated-", "simulated-guess", "Classical", "classical\n"])
def test_how_it_ran_is_one_of_a_closed_vocabulary(execution: str) -> None:
    with pytest.raises(ValidationError, match="execution"):
        SolverRecord(solver="qaoa", execution=execution)


@pytest.mark.parametrize("execution", ["classical", "simulated-subspace", "device:my_qpu.2"])
def test_what_is_classical_simulated_or_a_device_is_taken(execution: str) -> None:
    record = SolverRecord(solver="qaoa", execution=execution)
    assert SolverRecord.model_validate_json(record.model_dump_json()) == record


def test_every_name_of_the_table_has_the_form_of_a_name() -> None:
    assert [SolverRecord(solver=name).solver for name in SOLVERS] == list(SOLVERS)


def test_reasons_are_words_fit_for_a_label() -> None:
    assert all(reason.isidentifier() and reason.islower() for reason in Reason)
