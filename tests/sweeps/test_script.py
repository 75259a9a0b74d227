"""The probe: flags of any unmodified script, also of those that do something else before they parse."""

from __future__ import annotations

import textwrap

import pytest

from toolkit.errors import UserError
from toolkit.sweeps import script as scripts

pytestmark = pytest.mark.provided


def write(folder, text: str, name: str = "target.py") -> str:
    (folder / name).write_text(textwrap.dedent(text), encoding="utf-8")
    return str(folder / name)


def flags_of(name: str) -> dict[str, scripts.Flag]:
    script = scripts.find_script(name)
    with scripts.probe(script):
        return script.flags


def test_first_look_for_a_config_file_is_not_taken_for_the_parser(tmp_path):
    path = write(
        tmp_path,
        """
        import argparse, sys
        first = argparse.ArgumentParser(add_help=False)
        first.add_argument("--config")
        known, rest = first.parse_known_args()
        print("noise on stdout", sys.stdin.read())
        parser = argparse.ArgumentParser(parents=[first])
        parser.add_argument("--results_path")
        parser.add_argument("--depth", type=int, choices=[1, 2])
        parser.parse_args()
        raise SystemExit("the script went on after parse_args")
        """,
    )
    flags = flags_of(path)
    assert set(flags) == {"config", "results_path", "depth"}
    assert (flags["depth"].option, flags["depth"].type) == ("--depth", "int")


def test_the_script_stops_at_parse_args_even_if_it_catches_everything(tmp_path):
    path = write(
        tmp_path,
        f"""
        import argparse
        parser = argparse.ArgumentParser()
        parser.add_argument("--results_path")
        try:
            parser.parse_args()
        except BaseException:
            pass
        finally:
            open({str(tmp_path / "ran")!r}, "w")
        """,
    )
    flags_of(path)
    assert not (tmp_path / "ran").exists()


def test_module_form_and_neighbours_are_found(tmp_path, monkeypatch):
    (tmp_path / "lab").mkdir()
    write(tmp_path / "lab", "WIDTH = 3", "settings.py")
    code = """
        import argparse
        from lab.settings import WIDTH
        parser = argparse.ArgumentParser()
        parser.add_argument("--results_path")
        parser.add_argument("--width", type=int, default=WIDTH)
        parser.parse_args()
        """
    write(tmp_path / "lab", code, "train.py")
    monkeypatch.chdir(tmp_path)
    assert set(flags_of("lab.train")) == {"results_path", "width"}
    assert scripts.find_script("lab.train").command(["--width", "1"])[1:] == ["-m", "lab.train", "--width", "1"]
    write(tmp_path, code.replace("lab.settings", "neighbour"), "beside.py")
    write(tmp_path, "WIDTH = 4", "neighbour.py")
    assert "width" in flags_of("beside.py")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("print('done')", "without calling argparse"),
        ("import argparse; argparse.ArgumentParser().parse_args()", "no flag --results_path"),
        ("import a_module_that_is_not_there; parse_args()", "No module named 'a_module_that_is_not_there'"),
        ("def broken(: parse_args()", "SyntaxError"),
        ("if False: parse_args()", "without calling argparse"),
    ],
)
def test_scripts_that_cannot_be_swept(tmp_path, code, message):
    with pytest.raises(UserError, match=message):
        flags_of(write(tmp_path, code))


def test_a_script_that_never_parses_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(scripts, "PROBE_TIMEOUT_S", 0.5)
    with pytest.raises(UserError, match="did not reach parse_args"):
        flags_of(write(tmp_path, "import time; time.sleep(60); parse_args()"))


def test_required_flags_and_exclusive_groups_are_the_scripts_own(tmp_path):
    path = write(
        tmp_path,
        """
        import argparse
        parser = argparse.ArgumentParser()
        parser.add_argument("--results_path", required=True)
        parser.add_argument("--task", required=True)
        either = parser.add_mutually_exclusive_group()
        either.add_argument("--adam", action="store_true")
        either.add_argument("--sgd", action="store_true")
        parser.parse_args()
        """,
    )
    script = scripts.find_script(path)
    with scripts.probe(script) as child, pytest.raises(UserError, match="required: --task"):
        scripts.check_points(child, [{"adam": True}])
    with scripts.probe(script) as child, pytest.raises(UserError, match="not allowed with"):
        scripts.check_points(child, [{"task": "a", "adam": True}, {"task": "b", "adam": True, "sgd": True}])


def test_a_parser_with_errors_of_its_own_is_asked_too(tmp_path):
    path = write(
        tmp_path,
        """
        import argparse
        class Quiet(argparse.ArgumentParser):
            def error(self, message):
                raise SystemExit(2)
        parser = Quiet()
        parser.add_argument("--results_path")
        parser.add_argument("--width", type=int)
        parser.parse_args()
        """,
    )
    script = scripts.find_script(path)
    with scripts.probe(script) as child, pytest.raises(UserError, match="invalid int value: 'wide'"):
        scripts.check_points(child, [{"width": "wide"}])


def test_ten_thousand_points_need_only_a_few_parses(tmp_path, monkeypatch):
    path = write(
        tmp_path,
        """
        import argparse
        parser = argparse.ArgumentParser()
        for name in ("results_path", "a", "b", "c", "d"):
            parser.add_argument("--" + name)
        parser.parse_args()
        """,
    )
    points = [{"a": i % 10, "b": i // 10 % 10, "c": i // 100 % 10, "d": i // 1000} for i in range(10_000)]
    script = scripts.find_script(path)
    tried = []
    ask = scripts.Probe.find_problems
    monkeypatch.setattr(scripts.Probe, "find_problems", lambda child, some: tried.extend(some) or ask(child, some))
    with scripts.probe(script) as child:
        assert len(scripts.check_points(child, points)) == 10_000
    assert len(tried) <= 40
    for name in "abcd":
        assert len({tuple(argv[argv.index(f"--{name}") :][:2]) for argv in tried}) == 10
