"""What is refused is told in one line, with the place and the nearest right name, and exit code 2; nothing is run."""

import pytest
import torch
from cli_refused import LINES, SETS

FILES = {
    "broken.toml": b"model = \n",
    "latin.toml": b'model = "\xe9"\n',
    "file.txt": b"x",
}


@pytest.mark.parametrize(("setting", "message"), SETS)
def test_a_bad_value_for_a_key_is_refused(folder, said, setting, message):
    code, out, err = said("train", "--set", setting)
    assert (code, out) == (2, "")
    assert err == f"pyrometa: {message.replace('HERE', str(folder))}\n"


@pytest.mark.parametrize(("line", "message"), LINES)
def test_a_bad_command_line_is_refused(folder, said, line, message):
    if "cuda" in line and torch.cuda.is_available():
        line, message = line.replace("cuda", "cuda:99"), message.replace("cuda", "cuda:99")
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    code, out, err = said(*line.split())
    assert (code, out) == (2, "")
    assert err.startswith(f"pyrometa: {message.replace('HERE', str(folder))}")
    assert err.count("\n") == 1


def test_there_are_enough_of_them():
    assert len(SETS) + len(LINES) >= 40


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_step = 3\n[trainer]", "recipe.toml: max_step is a key that nobody knows: there are model, guide, meta, "),
        ("[trainr]", "recipe.toml: trainr is a table that nobody knows: did you mean 'trainer'?"),
        ("[inner]\nlr = 0.1", "recipe.toml: [trainer] max_steps is missing: Trainer needs it"),
        ("[trainer]\nmax_steps = 3", "recipe.toml: [tasks] needs source = 'schools:make_tasks' or path = "),
        (
            '[trainer]\nmax_steps = 3\n[tasks]\nsource = "recipe_program:make_tasks"',
            "recipe.toml: model is missing: give model and guide, or meta = 'schools:make_meta'",
        ),
        (
            'meta = "recipe_program:one_thing"\n[trainer]\nmax_steps = 3\n'
            '[tasks]\nsource = "recipe_program:make_tasks"',
            "recipe.toml: meta is 'recipe_program:one_thing', which returned int and no MetaSVI",
        ),
        (
            '[meta]\nsource = "recipe_program:make_meta"\nstep = 3\n[trainer]\nmax_steps = 3\n'
            '[tasks]\nsource = "recipe_program:make_tasks"',
            "recipe.toml: [meta] step is a key that nobody knows: did you mean 'steps'?",
        ),
    ],
)
def test_a_file_of_its_own_is_refused(folder, said, text, message):
    (folder / "recipe.toml").write_text(text)
    code, _, err = said("train")
    assert code == 2
    assert err.startswith(f"pyrometa: {message}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def model(x:\n", "names module 'own_program', which can't be imported: SyntaxError: '(' was never closed"),
        ("\n1 / 0\n", "names module 'own_program', which can't be imported: ZeroDivisionError: division by zero ("),
        ("import no_such_thing\n", "can't be imported: ModuleNotFoundError: No module named 'no_such_thing' ("),
    ],
)
def test_a_module_that_fails_is_told_with_its_line(folder, said, source, message):
    (folder / "own_program.py").write_text(source)
    code, _, err = said("train", "--set", "model=own_program:model")
    assert code == 2
    assert message in err
    assert f"own_program.py, line {1 + source.count(chr(10)) - 1 if '1 / 0' in source else 1})" in err


def test_a_module_of_the_same_name_from_elsewhere_is_not_taken(folder, said):
    (folder / "recipe_program.py").write_text("raise SystemExit('it was run')")
    code, _, err = said("train")
    assert code == 2
    assert "source names module 'recipe_program', and this process has another of that name, " in err
    assert err.endswith(f"rename {folder / 'recipe_program.py'}, or start another process\n")


def test_debug_shows_the_traceback_and_the_line_after_it(folder, said):
    code, _, err = said("train", "--debug", "--set", "trainer.max_stps=3")
    assert code == 2
    assert err.startswith("Traceback (most recent call last):\n")
    assert err.endswith("pyrometa: --set: [trainer] max_stps is a key that nobody knows: did you mean 'max_steps'?\n")


def test_an_error_of_the_program_is_told_with_its_type(folder, said, monkeypatch):
    import recipe_program

    def model(x, y):
        raise KeyError("height")

    monkeypatch.setattr(recipe_program, "model", model)
    code, _, err = said("train")
    assert code == 2
    assert err.count("\n") == 1
    assert "height" in err
