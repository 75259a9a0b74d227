"""Similar submissions: what a copy may change without being missed, and what independent work shares."""

from __future__ import annotations

import random
import re
import shutil

import pytest

from staff.gradebook import similar, similarity_page
from staff.gradebook.similarity import GRAM, WINDOW, common_code, compare, make_work, suspects, winnow, without
from staff.gradebook.tokens import code_tokens
from staff.quality import bank, similarity_rates
from staff.tests.grading_tools import ROOT

ORIGINAL = '''
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    """A network."""

    def __init__(self, width=64):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, width, 3), nn.Linear(width, 9)

    def forward(self, images):
        hidden = F.relu(self.first(images))
        return self.second(hidden.mean(dim=(2, 3)))


def total(values, start=0.0):
    for place, value in enumerate(values):
        start += value * 2 if place else 1.5
    return f"sum: {start:.2f}"
'''
# The same with other names, comments, constants, layout and line ends, as one who wants to hide a copy writes it.
DISGUISED = '''
import torch.nn.functional as func
from torch import nn
class Mine(nn.Module):
  # my own network
  def __init__(me, n=32):
    super().__init__()
    me.a, me.b = nn.Conv2d(1,
        n, 5), nn.Linear(n, 2)  # layers

  def forward(me, x):
    z = func.relu(me.a(x))
    return me.b(z.mean(dim=(1, 2)))
def summed(v, s=1):
  """Adds up."""
  for i, w in enumerate(v):
    s += w * 3 if i else 7
  return f'{s} in all'
'''


def texts(source: str) -> list[str]:
    return [token.text for token in code_tokens(source)]


def test_a_disguised_copy_has_the_same_tokens_and_other_layers_have_not():
    assert texts(ORIGINAL) == texts(DISGUISED.replace("\n", "\r\n"))
    assert len(texts(ORIGINAL)) > 100
    assert texts(ORIGINAL) != texts(ORIGINAL.replace("relu", "tanh"))
    assert texts(ORIGINAL) != texts(ORIGINAL.replace("enumerate", "reversed"))
    assert texts(ORIGINAL) != texts(ORIGINAL.replace("value * 2", "value + 2"))


def test_winnowing_keeps_the_least_of_each_window():
    draw = random.Random(0)
    for length in (0, 1, WINDOW - 1, WINDOW, 200):
        hashes = [draw.randrange(10**6) for _ in range(length)]
        windows = [hashes[i : i + WINDOW] for i in range(max(1, length - WINDOW + 1))] if hashes else []
        assert winnow(hashes) == {min(window) for window in windows}


def test_a_run_of_27_tokens_is_found_wherever_it_stands():
    draw = random.Random(1)
    operators = ["+", "-", "*", "/", "%", "//", "**", "<", ">", "==", "!=", "&", "|", "^", "<<", ">>"]

    def expression(count: int) -> str:  # 2 * count tokens
        return " ".join(f"x {draw.choice(operators)}" for _ in range(count))

    for _ in range(20):
        shared = expression((GRAM + WINDOW) // 2)
        one, other = (
            make_work(name, "class", {"a.py": f"{expression(40)} {shared} {expression(n)} x"})
            for name, n in (("one", 30), ("other", 55))
        )
        assert one.all_prints & other.all_prints


def test_code_that_is_given_or_common_does_not_count():
    mine = "\n".join(f"def f{i}(a):\n    return a.m{i}() + a.n{i}() * [a.p{i}, 0]" for i in range(40))
    one, other = make_work("one", "class", {"a.py": ORIGINAL * 3 + mine}), make_work("o", "class", {"a.py": ORIGINAL})
    assert compare(one, other).whole > 0.9
    given = frozenset(common_code([other] * 4))
    assert compare(without(one, given), without(other, given)).whole == 0.0
    assert not common_code([other] * 3)


def test_independent_solutions_are_left_alone_and_copies_are_found():
    right = {variant.name: variant for variant in bank.load_bank() if variant.is_right}
    works = {name: make_work(name, "public", one.files) for name, one in right.items() if one.is_whole}
    paired = similarity_rates.Comparison(list(works.values()))
    some = list(works.values())[::3]
    pairs = [paired(one, other) for one in some for other in some if one.name < other.name]
    assert len(pairs) >= 15
    assert [(pair.first.name, pair.second.name) for pair in pairs if pair.is_suspect] == []
    for file in bank.reference():
        assert paired(similarity_rates.with_a_file_of(some[0], some[1], file), some[1]).files[file] == 1.0
    reference = make_work("reference", "public", right["reference"].files)
    for name in ("residual", "plain_convolutions", "modulelist"):  # the last two have the least in common with it
        assert paired(make_work(name, "public", right[name].files), reference).is_suspect


@pytest.mark.parametrize(
    "source",
    [
        "(" * 5000,
        "for " * 50_000,
        "x = " * 50_000,
        "'''",
        "\0",
        "a\udc80 = 1",
        "  x\n y",
        "f'{" * 200,
        "lambda " * 50_000,  # none of them may take time that grows with the square of its length
    ],
)
def test_any_text_is_read_to_its_fault(source):
    assert [token.text for token in code_tokens("y = z\n" + source)][:3] == ["x", "=", "x"]


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A class of homework 5 (its bank is the reference alone): a pair, one who works alone, markup, nothing to read."""
    folder = tmp_path_factory.mktemp("similar") / "class"
    hw5 = ROOT / "labs/hw5_pneumonia/hw5_dl.py"
    for name in ("ada", "ben", "<b>eve"):
        (folder / name).mkdir(parents=True)
    work = "\n".join(f"def f{i}(a):\n    return a.m{i}() + '</pre><script>bad()</script>'" for i in range(60))
    (folder / "ada/hw5_dl.py").write_text(work)
    (folder / "<b>eve/hw5_dl.py").write_text(re.sub(r"\bf(\d)", r"g\1", work).replace("(a)", "(q)").replace("a.", "q."))
    (folder / "ben/hw5_dl.py").write_text("\n".join(f"def f{i}(a):\n    yield a.k{i} ** a.j{i}" for i in range(60)))
    (folder / "none").mkdir()
    earlier = folder.with_name("spring")
    (earlier / "old").mkdir(parents=True)
    shutil.copy(hw5, earlier / "old")
    (folder / "zoe").mkdir()
    shutil.copy(hw5, folder / "zoe/HW5_dl.py")
    flags = ["--assignment", "hw5", "--earlier", str(earlier)]
    assert similar.main([str(folder), *flags]) == 0
    return folder.with_name("class-similar")


def test_the_pages_name_pairs_show_both_and_escape_everything(reported, capsys):
    index = (reported / "index.html").read_text()
    rows = re.findall(r"<tr><td><a.*?</tr>", index)
    names = [re.findall(r"<td>([^<]*)</td>", row)[:2] for row in rows]
    assert names[0] == ["&lt;b&gt;eve", "ada"]
    assert sorted(names[1:]) == [["zoe", "reference (public)"], ["zoe", "spring: old"]]
    assert "none: the folder holds none of" in index
    pair = (reported / "pairs/001.html").read_text()
    assert "<script" not in pair + index
    assert pair.count("&lt;/pre&gt;&lt;script&gt;") == 120
    link = re.search(r'id="a-[^"]*-1"><a class="at" href="#([^"]*)"', pair)[1]
    target = "b-labs/hw5_pneumonia/hw5_dl.py-1"
    assert link == target
    assert f'id="{target}"' in pair
    assert capsys.readouterr().err == ""


def test_of_the_public_solutions_only_the_nearest_is_named():
    work = make_work("ada", "class", {"a.py": ORIGINAL * 4})
    other = ORIGINAL.replace("relu", "tanh")
    public = [make_work(name, "public", {"a.py": text * 4}) for name, text in (("far", other), ("near", ORIGINAL))]
    assert compare(work, public[0]).is_suspect
    assert [pair.second.name for pair in suspects([work], public)] == ["near"]
    assert "100% of the smaller one" in similarity_page.told(suspects([work], public)[0])


def test_an_output_folder_that_holds_the_submissions_is_refused(tmp_path):
    (tmp_path / "ada").mkdir()
    with pytest.raises(ValueError, match="choose another folder"):
        similar.main([str(tmp_path), "--out", str(tmp_path)])
