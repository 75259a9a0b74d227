"""Scripts, grids and results as strangers write them: no kind of flag is lost, and no file destroys a report."""

from __future__ import annotations

import json
import textwrap

import pytest

from tests.sweeps import tools
from toolkit.errors import UserError
from toolkit.sweeps import grid, jobs
from toolkit.sweeps import script as scripts

pytestmark = pytest.mark.provided

FLAGS = """
import argparse, json
parser = argparse.ArgumentParser()
parser.add_argument("--results_path")
parser.add_argument("--tag", action="append")
parser.add_argument("--more", action="extend", nargs="+")
parser.add_argument("-v", "--verbose", action="count", default=0)
parser.add_argument("--shuffle", type=bool, default=True)
parser.add_argument("--layers", type=json.loads)
parser.add_argument("--pair", nargs=2, type=int)
parser.add_argument("--maybe", nargs="?", const="yes")
parser.add_argument("--many", nargs="*", default="unset")
parser.add_argument("--no-crop", dest="crop", action="store_false")
parser.add_argument("-w", type=int)
parser.add_argument("--rate", type=float)
either = parser.add_mutually_exclusive_group()
either.add_argument("--adam", action="store_true")
either.add_argument("--sgd", action="store_true")
args = parser.parse_args()
json.dump({"best_val_acc": 1, "seen": json.dumps(vars(args))}, open(args.results_path, "w"))
"""
# What the grid says of a flag, and what the script must see.
SEEN = [
    ({"tag": [["a", "-b"]]}, {"tag": ["a", "-b"]}),
    ({"tag": "a"}, {"tag": ["a"]}),
    ({"more": [["a", "b"]]}, {"more": ["a", "b"]}),
    ({"verbose": 3}, {"verbose": 3}),
    ({"v": True}, {"verbose": 1}),
    ({"shuffle": False}, {"shuffle": False}),  # bool("false") is True
    ({"shuffle": True}, {"shuffle": True}),
    ({"layers": [[1, 2]]}, {"layers": [1, 2]}),
    ({"layers": {"depth": 3}}, {"layers": {"depth": 3}}),
    ({"pair": [[-1, 2]]}, {"pair": [-1, 2]}),
    ({"maybe": "x"}, {"maybe": "x"}),
    ({"many": [[]]}, {"many": []}),
    ({"no_crop": True}, {"crop": False}),
    ({"w": -3}, {"w": -3}),
]


def write(folder, text: str, name: str = "target.py") -> str:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(textwrap.dedent(text), encoding="utf-8")
    return str(folder / name)


def check(path: str, *points: dict) -> list[list[str]]:
    script = scripts.find_script(path)
    with scripts.probe(script) as child:
        return scripts.check_points(child, list(points))


def test_every_kind_of_flag_arrives_as_the_grid_has_it(tmp_path):
    configs = [{**config, "rate": float(number)} for number, (config, _) in enumerate(SEEN)]
    run = tools.sweep(tmp_path, configs, "--num_workers", "2", script=write(tmp_path, FLAGS))
    assert run.returncode == 0, run.stdout + run.stderr
    seen = [json.loads(json.loads(path.read_text())["seen"]) for path in tmp_path.glob("logs/*/results.json")]
    for arrived in seen:
        expected = SEEN[int(arrived["rate"])][1]
        assert {name: arrived[name] for name in expected} == expected
    assert len(seen) == len(SEEN)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([{"rate": 10**400}], "401 digits is too large for a float"),
        ([{"tag": "a\ud800"}], "half a surrogate pair"),
        # Only the last of the four is wrong, and each of its values is in another one, too.
        ([{"adam": a, "sgd": s} for a in (None, True) for s in (None, True)], "not allowed with"),
        ([{"adam": a, "sgd": s} for a in (False, True) for s in (False, True)], "not allowed with"),
        ([{"verbose": 1.5}], "takes no value"),
    ],
)
def test_values_that_cannot_be_meant_are_refused_before_anything_starts(tmp_path, points, message):
    with pytest.raises(UserError, match=message):
        check(write(tmp_path, FLAGS), *points)


@pytest.mark.parametrize("argument", ['"data"', '"data", nargs="+"'])
def test_a_script_that_needs_a_positional_argument_is_refused_with_the_cure(tmp_path, argument):
    text = f"""
        import argparse
        parser = argparse.ArgumentParser()
        parser.add_argument("--results_path")
        parser.add_argument({argument})
        parser.parse_args()
        """
    with pytest.raises(UserError, match="needs data without a flag, which a grid cannot give; make it a flag"):
        check(write(tmp_path, text), {})


def test_a_script_with_required_commands_is_refused_with_their_name(tmp_path):
    text = """
        import argparse
        parser = argparse.ArgumentParser()
        parser.add_argument("--results_path")
        parser.add_subparsers(dest="command", required=True).add_parser("train").add_argument("--depth")
        parser.parse_args()
        """
    with pytest.raises(UserError, match="needs command without a flag"):
        check(write(tmp_path, text), {"depth": 1})


@pytest.mark.parametrize("text", ['{"key": ' + "9" * 5000 + "}", "[" * 100_000, '{"key": 1}'.encode("utf-16")])
def test_grid_files_that_no_reader_takes_are_one_line(tmp_path, text):
    path = tmp_path / "grid.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=r"grid\.json is not") as caught:
        grid.load_config(str(path))
    assert len(str(caught.value)) < 400


def test_code_counts_wherever_the_script_has_imported_it_from(tmp_path):
    """A path that is added before the import, and a name that is only known when it runs."""
    text = """
        import argparse, importlib, os, sys
        sys.path.insert(0, os.path.join(os.path.dirname(__file__), "src"))
        import deep
        importlib.import_module("plain".strip())
        parser = argparse.ArgumentParser()
        parser.add_argument("--results_path")
        parser.parse_args()
        """
    path = write(tmp_path, text)
    write(tmp_path, "def late():\n    import deeper", "src/deep.py")
    write(tmp_path, "", "plain.py")
    write(tmp_path, "", "bystander.py")
    script = scripts.find_script(path)
    with scripts.probe(script):
        assert {name.rsplit("/", 1)[-1] for name in script.modules} == {"target.py", "deep.py", "plain.py"}


RESULTS = r"""
import argparse, json, os
parser = argparse.ArgumentParser()
parser.add_argument("--results_path")
parser.add_argument("--output_dir")
parser.add_argument("--key", type=int)
parser.add_argument("--tag")
parser.add_argument("--constructor")
args = parser.parse_args()
good = '"best_val_acc": 0.5'
texts = [
    '{"best_val_acc": 0.75}',
    '{%s, "title": "\\ud800", "\\udc00": 1}' % good,
    '{%s, "history": {"\\ud800": [1], "a\\nb": [[1], {"c": 2}]}}' % good,
    '{%s, "name": 1, "status": 2, "seconds": "x", "job": 3, "constructor": 4, "__proto__": 5, "": 6}' % good,
    '{%s, "</script><b>": "<!--<script>", "title": "a\\u0000b"}' % good,
    '{%s, "dataset": ["a"], "device": {"b": 1}, "epoch": true}' % good,
    '{"best_val_acc": null}',
    '{"best_val_acc": ' + "9" * 400 + "}",
]
histories = [
    b"epoch,val_acc\n1,0.5\n2,0.75\n",
    b"epoch,val_acc\n1," + b"9" * 200_000 + b"\n",
    b"",
    b"epoch,__proto__,constructor,val_acc\n1,2,3,.5\n",
    b'epoch,"val_acc\n1,0.5\n',
    b"epoch,val_acc,\xe9\n1,2,3\n",
    b"epoch,val_acc\n1,\x002\n,\n\n3,4,5,6\n",
]
os.mkdir(args.output_dir)
if args.key < len(histories):
    with open(args.output_dir + "/history.csv", "wb") as file:
        file.write(histories[args.key])
else:
    os.mkdir(args.output_dir + "/history.csv")
with open(args.results_path, "w") as file:
    file.write(texts[args.key])
"""


STRANGE = [{"key": list(range(8)), "tag": '</script>"<b>,\n'}, {"key": 0, "constructor": ["x", "y"]}]


def test_no_result_and_no_history_of_one_job_destroys_the_report_of_all(tmp_path):
    run = tools.sweep(tmp_path, STRANGE, "--num_workers", "2", script=write(tmp_path, RESULTS))
    assert (run.returncode, run.stderr) == (0, ""), run.stdout + run.stderr
    rows = tools.table(tmp_path)
    assert [row["status"] for row in rows] == ["done"] * 10
    assert [(row["key"], row["tag"]) for row in rows[:8]] == [(str(key), STRANGE[0]["tag"]) for key in range(8)]
    note = next(line for line in run.stdout.splitlines() if line.startswith("note: "))
    assert all(f"key={key}" in note for key in (6, 7))
    page = (tmp_path / "logs/report.html").read_text(encoding="utf-8")
    text = page.partition('id="data">')[2].partition("</script>")[0]
    data = json.loads(text, parse_constant=pytest.fail)
    assert data["groups"][0]["mean"] == 0.75
    assert len(data["jobs"]) == 10


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\ufeffepoch,val_acc\n1,0.5\n", {"epoch": [1], "val_acc": [0.5]}),
        ("a,b,b,c\n1,2,3,4\n", {"a": [1], "b": [3], "c": [4]}),  # a name that is given twice moves no other column
        ("a,b\n1,2\n3\n5,6\n", {"a": [1, 3, 5], "b": [2, None, 6]}),
        ("a,b\n1,2\n3,4", {"a": [1], "b": [2]}),  # still being written
        ('a,"b, c"\n1,x\n', {"a": [1], "b, c": [None]}),
        ("a\n", {"a": []}),
    ],
)
def test_cells_of_a_history_stay_in_their_row_and_column(tmp_path, text, expected):
    (tmp_path / "history.csv").write_text(text, encoding="utf-8")
    found = jobs.read_history(str(tmp_path))
    assert {name: [None if one != one else one for one in column] for name, column in found.items()} == expected


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB\n", jobs.OUT_OF_MEMORY),
        ("RuntimeError: CUDA out of memory\nsrun: error: node1: task 0: Exited\n", jobs.OUT_OF_MEMORY),
        ("error: out of GPU memory; use a smaller --batch_size\n", jobs.OUT_OF_MEMORY),
        ("CUDA out of memory: trying a smaller batch\nKeyError: 'val'\n", jobs.EXIT),
    ],
)
def test_memory_is_the_cause_only_of_who_died_of_it(log, cause):
    assert jobs.explain_exit(1, log)[0] == cause
