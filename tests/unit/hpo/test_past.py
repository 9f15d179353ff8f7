"""Past metrics come in from the files of other tools, and each fault has its line and column."""

from __future__ import annotations

import io
import json
import re

import pytest

from qstream.errors import ProblemError
from qstream.hpo import SearchSpace
from qstream.hpo.formats.history import best_json, json_lines, row, write_csv
from qstream.hpo.formats.past import checked, read_csv
from qstream.hpo.older import older_rows
from schemas.hpo import StudyBest, StudySpec, TrialRecord

SPACE = SearchSpace(StudySpec.example().parameters)  # lr, batch_size 16|32|64, optimizer adam|sgd, momentum if sgd
GOOD = "lr,batch_size,optimizer,momentum,loss\n0.001,32,adam,,2.5\n1e-2, 64 ,sgd,0.9,3\n"


@pytest.fixture
def file(tmp_path):
    def write(text: str):
        path = tmp_path / "past.csv"
        path.write_text(text)
        return path

    return write


def test_rows_become_configurations_in_the_parameters_own_types(file):
    past = read_csv(file("\ufeff" + GOOD + "\n"), SPACE)
    assert past.rows == (
        ({"lr": 0.001, "batch_size": 32, "optimizer": "adam"}, 2.5),
        ({"lr": 0.01, "batch_size": 64, "optimizer": "sgd", "momentum": 0.9}, 3.0),
    )
    assert past.dropped == ()
    assert type(past.rows[1][0]["batch_size"]) is int


def test_columns_of_other_names_are_renamed(file):
    text = GOOD.replace("lr,", "learning rate,").replace(",loss", ",val")
    assert read_csv(file(text), SPACE, objective="val", rename={"learning rate": "lr"}).rows == read_csv(file(GOOD), SPACE).rows
    assert read_csv(file(text), SPACE, rename={"learning rate": "lr", "val": "loss"}).rows[1][1] == 3


def test_runs_as_mlflow_exports_them_are_read(file):
    text = (
        "run_id,status,metrics.loss,metrics.acc,params.lr,params.batch_size,params.optimizer,tags.mlflow.user\n"
        "a,FINISHED,2.5,.9,0.001,32,adam,x\nb,FAILED,,,0.001,32,adam,x\n"
    )
    past = read_csv(file(text), SPACE)
    assert past.rows == (({"lr": 0.001, "batch_size": 32, "optimizer": "adam"}, 2.5),)
    assert read_csv(file(text), SPACE, objective="acc").rows[0][1] == 0.9


def test_a_history_that_was_written_is_read_again(file):
    lost = TrialRecord.build(**(dict(TrialRecord.example()) | {"trial": 8, "outcome": "lost", "metrics": {}}))
    rows = [row(record, "loss") for record in (TrialRecord.example(), lost)]
    out = io.StringIO()
    write_csv(rows, out)
    head = out.getvalue().splitlines()[0]
    assert head == (
        "study,trial,attempt,state,param.lr,param.batch_size,param.optimizer,param.momentum,value,metric.loss,metric.step_ms,"
        "source,worker,asked_ns,done_ns,duration_s,best_so_far,late"
    )
    example = TrialRecord.example()
    assert read_csv(file(out.getvalue()), SPACE).rows == ((example.params, 2.41),)
    with pytest.raises(ProblemError, match=r"among them the objective, metric\.accuracy, got"):  # and not the loss in its place
        read_csv(file(out.getvalue()), SPACE, objective="accuracy")
    first = json.loads(next(json_lines(rows)))
    assert (first["param.lr"], first["duration_s"], first["late"]) == (0.0021, 59.0, False)
    assert json.loads(best_json(StudyBest.example()))["best"][0]["params"]["batch_size"] == 32


FAULTS = [
    ("0.2,32,adam,,1", "line 3, column 'lr' of past.csv must be a number from 1e-05 to 0.1, got '0.2'"),
    ("nan,32,adam,,1", "line 3, column 'lr' of past.csv must be a number from 1e-05 to 0.1, got 'nan'"),
    ("1_0e-3,32,adam,,1", "line 3, column 'lr' of past.csv must be a number"),
    ("0.001,33,adam,,1", "line 3, column 'batch_size' of past.csv must be one of 16, 32, 64, got '33'"),
    ("0.001,32,lion,,1", "line 3, column 'optimizer' of past.csv must be one of 'adam', 'sgd', got 'lion'"),
    ("0.001,32,sgd,,1", "line 3 of past.csv: parameter 'momentum' must be a number from 0 to 0.99, got nothing"),
    (",32,adam,,1", "line 3 of past.csv: parameter 'lr' must be a number from 1e-05 to 0.1, got nothing"),
    ("0.001,32,adam,,", "line 3, column 'loss' of past.csv must be a finite number, got ''"),
    ("0.001,32,adam,,inf", "line 3, column 'loss' of past.csv must be a finite number, got 'inf'"),
    ("0.001,32,adam,1", "line 3 of past.csv must be 5 cells, as the header has, got 4"),
]


@pytest.mark.parametrize(("line", "message"), FAULTS)
def test_a_bad_row_is_refused_by_line_and_column_or_dropped_and_counted(file, line, message):
    lines = GOOD.splitlines()
    path = file("\n".join([*lines[:2], line, lines[2]]) + "\n")
    with pytest.raises(ProblemError, match=re.escape(message)):
        read_csv(path, SPACE)
    past = read_csv(path, SPACE, on_bad="drop")
    assert len(past.rows) == 2
    assert len(past.dropped) == 1
    assert message in past.dropped[0]


def test_an_unknown_column_is_refused_by_its_place_or_dropped(file):
    path = file("host,lr,batch_size,optimizer,loss\nn1,0.001,32,adam,1\n")
    with pytest.raises(ProblemError, match=r"line 1, column 1 of past.csv must be one of lr, .*, loss, got 'host'"):
        read_csv(path, SPACE)
    past = read_csv(path, SPACE, on_bad="drop")
    assert (len(past.rows), past.dropped) == (1, ("column 'host' is unknown",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "columns of past.csv must be 1 to 10000, got 0"),
        ("lr,lr,loss\n", "columns of past.csv must be distinct, got 'lr' twice"),
        (
            "lr,batch_size,optimizer\n",
            "columns of past.csv must be among them the objective, loss, got lr, batch_size, optimizer",
        ),
        ("lr,optimizer,loss\n", "columns of past.csv must be among them batch_size, got lr, optimizer, loss"),
        ('lr,batch_size,optimizer,loss\n"0.1', "a file of past metrics must be readable CSV (unexpected end of data)"),
    ],
)
def test_a_file_without_what_is_needed_says_so(file, text, message):
    with pytest.raises(ProblemError, match=re.escape(message)):
        read_csv(file(text), SPACE)


def test_texts_come_before_numbers_and_switches_are_words(file):
    space = SearchSpace.load([{"name": "c", "type": "categorical", "choices": [True, False, 1, "2", 2.5, " "]}])
    rows = read_csv(file("c,loss\nTrue,0\nfalse,1\n1.0,2\n2,3\n2.50,4\n"), space).rows
    assert [params["c"] for params, _ in rows] == [True, False, 1, "2", 2.5]
    assert type(rows[0][0]["c"]) is bool
    assert type(rows[2][0]["c"]) is int


def test_rows_in_memory_are_kept_or_dropped_by_the_same_rules():
    rows = [({"lr": 0.001, "batch_size": 32, "optimizer": "adam"}, 1), ({"lr": 1.0}, 1.0), ({"lr": 0.001}, 2.0)]
    with pytest.raises(ProblemError, match=r"row 1: parameter 'lr' must be a number from 1e-05 to 0.1, got 1.0"):
        checked(rows, SPACE)
    past = checked([*rows, (rows[0][0], float("nan"))], SPACE, "drop")
    assert len(past.rows) == 1
    assert len(past.dropped) == 3


def test_a_study_of_optuna_is_a_space_and_past_results(tmp_path):
    optuna = pytest.importorskip("optuna")
    from qstream.hpo.formats.optuna_study import load_optuna  # noqa: PLC0415 - an extra

    storage = f"sqlite:///{tmp_path}/past.db"
    study = optuna.create_study(storage=storage, study_name="old", direction="maximize")
    lr = optuna.distributions.FloatDistribution(1e-5, 0.1, log=True)
    size = optuna.distributions.CategoricalDistribution((16, 32, 64))
    for at, params in enumerate([{"lr": 1e-3, "n": 16}, {"lr": 1e-2, "n": 64}]):
        study.add_trial(optuna.trial.create_trial(params=params, distributions={"lr": lr, "n": size}, value=float(at)))
    study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL))
    found = load_optuna(storage)
    assert found.direction == "maximize"
    assert [(p.name, p.type) for p in found.space.parameters] == [("lr", "float"), ("n", "ordinal")]
    assert found.past.rows == (({"lr": 1e-3, "n": 16}, 0.0), ({"lr": 1e-2, "n": 64}, 1.0))
    assert older_rows(found.space, f"{storage}#old", "loss", "maximize") == found.past
    with pytest.raises(
        ProblemError, match=r"direction of the study of Optuna must be that of this one, minimize, got 'maximize'"
    ):
        older_rows(found.space, storage, "loss", "minimize")
    narrow = SearchSpace.load([{"name": "lr", "type": "float", "low": 1e-5, "high": 5e-3}])
    assert load_optuna(storage, "old", narrow, "drop").past.rows == (({"lr": 1e-3}, 0.0),)
    with pytest.raises(ProblemError, match=r"study of Optuna must be one of old, got 'new'"):
        load_optuna(storage, "new")
    with pytest.raises(ProblemError, match="storage of Optuna must be one that can be read"):
        load_optuna("nonsense://x")
    with pytest.raises(ProblemError, match=r"storage of Optuna must be one that can be read \(there is no file"):
        load_optuna(str(tmp_path / "none.log"))
