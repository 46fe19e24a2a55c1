"""The notebooks from their first cell to their last, each in a process as Jupyter starts it."""

import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import tomllib

import nbformat
import pytest
import tensorflow as tf
from conftest import ROOT
from nbclient import NotebookClient

import files
from demo import draw
from export.images import Folder
from tools import cells, hosted
from training import tpu

FOLDER = ROOT / "notebooks"
NAMES = ("train_colab", "search_colab")


@pytest.fixture(scope="module", autouse=True)
def own_kernel(tmp_path_factory):
    """The kernel is this Python with warnings as errors, whatever kernels the machine has."""
    folder = tmp_path_factory.mktemp("jupyter")
    argv = [sys.executable, "-W", "error", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel = folder / "kernels/python3/kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text(json.dumps({"argv": argv, "display_name": "own", "language": "python"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder))
        yield


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def execute(name, folder, **parameters):
    """Runs a notebook with other parameters; returns it with its outputs."""
    notebook = read(name)
    (cell,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", ()))
    known = dict(re.findall(r"^([A-Z]+) = (.*)$", cell.source, re.M))
    assert parameters.keys() <= known.keys()
    lines = [f"{key} = {parameters[key]!r}" for key in known if key in parameters]
    cell.source += "\n" + "\n".join(lines)
    resources = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(notebook, timeout=600, resources=resources).execute()
    nbformat.write(notebook, folder / f"{name}.ipynb")
    return notebook


def outputs(notebook):
    """Returns {cell id: all it has printed and shown}."""
    shown = {}
    for cell in notebook.cells:
        parts = [o.get("text", "") + "".join(map(str, o.get("data", {}).values()))
                 for o in cell.get("outputs", ())]  # fmt: skip
        shown[cell.id] = "".join(parts)
    return shown


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the demo's photographs, drawn small."""
    folder = tmp_path_factory.mktemp("notebooks")
    draw.draw(folder / "photographs", size="tiny", workers=1)
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    """(parameters, outputs) of the training notebook on the tiny recipe."""
    parameters = {"RECIPE": "tiny", "SOURCE": str(folder / "photographs")}
    parameters |= {"WORKDIR": str(folder / "run"), "MEMBERS": ["A"], "STAGE": "1"}
    parameters["SETTINGS"] = ["stage.epochs=1"]
    return parameters, outputs(execute("train_colab", folder, **parameters))


def test_training_goes_from_shards_to_a_report(folder, trained):
    _, shown = trained
    assert "a machine of your own" in shown["machine"]
    assert re.search(r"1 replica, 1 host, float32, TensorFlow 2\.20", shown["device"])
    assert "stage 1  epoch   1.00" in shown["train"]
    row = re.search(r"\| A \| (0\.\d{3}) \| (0\.\d{3}) \| (0\.\d{3}) \|", shown["scores"])
    page = (folder / "run/report.html").read_text()
    assert row[1] in page
    assert 'srcdoc="&lt;!' in shown["report"]
    assert (folder / "run/models/A/waymark.json").is_file()


def test_a_second_run_does_nothing_anew(folder, trained):
    parameters, _ = trained
    made = [*folder.rglob("*.keras"), *folder.rglob("*.npy"), *folder.rglob("*.tfrec")]
    made += folder.rglob("*.pb")
    before = {path: path.stat().st_mtime_ns for path in made}
    assert len(before) >= 1 + 2 + 1 + 1
    shown = outputs(execute("train_colab", folder, **parameters))
    assert shown["train"].count("finished before") == 1
    assert "epoch " not in shown["train"]
    assert (shown["export"] + shown["embed"]).count("made before") == 3
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.usefixtures("trained")
def test_photographs_are_searched(folder):
    photographs = folder / "photographs/images"
    query = next(photographs.rglob("*.jpg"))
    shown = outputs(
        execute(
            "search_colab", folder, MODEL=str(folder / "run/models/A"), QUERY=str(query),
            PHOTOGRAPHS=str(photographs), WORKDIR=str(folder / "search"), NEAREST=5,
        )
    )  # fmt: skip
    assert shown["answers"].count("<img") == 5
    assert f"1. {query.relative_to(photographs).as_posix()}<" in shown["answers"]


def test_without_a_checkout_the_project_is_cloned(tmp_path):
    if not (ROOT / ".git").exists():
        pytest.skip("needs a checkout to clone")
    cell, other = (c for name in NAMES for c in read(name).cells if c.id == "project")
    assert cell.source == other.source
    notebook = nbformat.v4.new_notebook()
    address = f"REPOSITORY = {f'file://{ROOT}'!r}"
    for source in (address, cell.source, "from tools import cells\nprint(cells.ROOT)"):
        notebook.cells.append(nbformat.v4.new_code_cell(source))
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=600, resources=resources).execute()
    assert notebook.cells[-1].outputs[-1].text.strip() == str((tmp_path / "waymark").resolve())


@pytest.mark.parametrize("name", NAMES)
def test_notebook_is_valid_and_holds_nothing_of_a_machine(name):
    text = (FOLDER / f"{name}.ipynb").read_text("utf-8")
    notebook = nbformat.reads(text, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert not re.search(r"/(home|Users|work|tmp|root|opt)/", text)
    before = [notebook.cells[notebook.cells.index(cell) - 1] for cell in code]
    assert all(cell.cell_type == "markdown" for cell in before)


@pytest.mark.parametrize("name", NAMES)
def test_commands_of_a_notebook_exist_and_know_their_options(name):
    source = "\n".join(cell.source for cell in read(name).cells if cell.cell_type == "code")
    scripts = set(re.findall(r'"((?:\w+/)*\w+\.py)"', source))
    assert len(scripts) >= 4
    known = "".join((ROOT / script).read_text("utf-8") for script in scripts)
    known += (ROOT / "retrieval/search.py").read_text("utf-8")
    for option in set(re.findall(r'"(--[a-z-]+)"', source)):
        assert f'"{option}"' in known, option
    for file in re.findall(r"[\w/]+\.(?:py|ipynb)", " ".join(c.source for c in read(name).cells)):
        assert (ROOT / file).is_file() or (FOLDER / file).is_file(), file


def test_training_in_a_bucket(folder, tmp_path):
    """ram:// is TensorFlow's file system in memory; it stands for a bucket."""
    import train
    from models import storage
    from tfrecords_tools import write

    bucket = f"ram://{tmp_path.name}/run"
    table = str(folder / "photographs/train.csv")
    write.write(f"{bucket}/shards", sources=[f"table:{table}"], stream=None)
    argv = ["--recipe", "tiny", "--stage", "1", "--set", "stage.epochs=1"]
    argv += ["--data", f"{bucket}/shards", "--workdir", bucket]
    assert train.main(argv) == 0
    found = set(tf.io.gfile.listdir(f"{bucket}/A/stage-1"))
    assert {"checkpoints", "log.jsonl", "model.keras", "stage.json"} <= {
        n.strip("/") for n in found
    }
    assert storage.load_model(f"{bucket}/A/stage-1/model.keras").output_shape == (None, 8)


def test_keep_copies_files_and_folders_and_nothing_onto_itself(tmp_path):
    (tmp_path / "from/deep").mkdir(parents=True)
    (tmp_path / "from/deep/a.txt").write_text("a")
    (tmp_path / "from/b.txt").write_text("b")
    for target in (str(tmp_path / "to"), f"ram://{tmp_path.name}/to"):
        cells.keep(str(tmp_path / "from"), target, "deep", "b.txt")
        assert files.read(f"{target}/deep/a.txt") == b"a"
        assert files.read(f"{target}/b.txt") == b"b"
    cells.keep(str(tmp_path / "from"), f"{tmp_path}/to/../from", "no such file")


def test_ids_are_those_of_the_embeddings(tmp_path):
    for name in ("a b.jpg", "deep/c.PNG", "deep/.hidden.jpg", ".git/d.jpg", "e.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert cells.photographs(str(tmp_path)) == dict(Folder(str(tmp_path)).rows())


def test_a_failed_command_stops_the_notebook(tmp_path, capfd):
    script = tmp_path / "fails.py"
    script.write_text("import sys; print('why', file=sys.stderr); sys.exit(int(sys.argv[1]))")
    cells.run(str(script), 0)
    cells.run(str(script), 3)  # some images were rejected
    with pytest.raises(cells.CommandError, match=r"fails\.py has ended with exit code 2"):
        cells.run(str(script), 2)
    assert capfd.readouterr().out == "".join(f"$ python {script} {n}\nwhy\n" for n in (0, 3, 2))


def test_made_before_unless_something_newer_came(tmp_path, capsys):
    script, made, source = (tmp_path / name for name in ("s.py", "made", "source"))
    script.write_text(f"open({str(made)!r}, 'w').close()")
    options = {"makes": str(made), "after": [str(source), str(tmp_path / "absent")]}
    source.touch()
    cells.run(str(script), **options)
    assert "made before" not in capsys.readouterr().out
    cells.run(str(script), **options)
    assert "made before" in capsys.readouterr().out
    os.utime(source, (made.stat().st_mtime + 9,) * 2)
    cells.run(str(script), **options)
    assert "made before" not in capsys.readouterr().out


STOPPED = """
import signal, sys, time
def stop(*_):
    print("state saved")
    sys.exit(130)
signal.signal(signal.SIGTERM, stop)
print("at work")
time.sleep(60)
"""


def test_the_stop_button_lets_a_command_save_its_state(tmp_path):
    script = tmp_path / "long.py"
    script.write_text(STOPPED)
    command = f"from tools import cells; cells.run({str(script)!r})"
    with subprocess.Popen(
        [sys.executable, "-c", command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    ) as notebook:  # fmt: skip
        assert "$ python" in notebook.stdout.readline()
        assert notebook.stdout.readline() == "at work\n"
        notebook.send_signal(signal.SIGINT)
        output, errors = notebook.communicate()
    assert output == "state saved\n"
    assert errors.rstrip().endswith("KeyboardInterrupt")


def test_table_and_grid_escape_what_they_show(tmp_path):
    from PIL import Image

    text = cells.table([{"": "a|b", "mAP": 0.12345}, {"": "c", "mAP": 2}])
    assert text == "|  | mAP |\n| --- | --- |\n| a\\|b | 0.123 |\n| c | 2 |"
    Image.new("RGB", (400, 200)).save(tmp_path / "p.png")
    grid = cells.grid([(str(tmp_path / "p.png"), "<b>")])
    assert "&lt;b&gt;" in grid
    assert grid.count("data:image/jpeg;base64,") == 1


PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PYPROJECT["optional-dependencies"]
BASE = PYPROJECT["dependencies"]


@pytest.mark.parametrize(
    ("kind", "wheels", "unwanted", "wheel"),
    [
        ("cpu", {"tensorflow-cpu": "2.20.0"}, [], None),
        ("cpu", {"tensorflow": "2.20.0"}, [], None),
        ("gpu", {"tensorflow": "2.20.0"}, [], None),
        ("gpu", {"tensorflow": "2.19.0"}, [], "tensorflow[and-cuda]==2.20.0"),
        ("cpu", {"tensorflow": "2.19.0"}, ["tensorflow"], "tensorflow-cpu==2.20.0"),
        ("cpu", {}, [], "tensorflow-cpu==2.20.0"),
        ("tpu", {"tensorflow": "2.20.0"}, ["tensorflow"], "tensorflow-tpu==2.20.0"),
        ("tpu", {"tensorflow-tpu": "2.20.0", "libtpu": "0.0.21"}, [], None),
        ("tpu", {"tensorflow-tpu": "2.20.0", "libtpu": "0.0.40"}, [], "tensorflow-tpu==2.20.0"),
        (
            "cpu",
            {"tensorflow": "2.20.0", "tensorflow-cpu": "2.20.0"},
            ["tensorflow", "tensorflow-cpu"],
            "tensorflow-cpu==2.20.0",
        ),
    ],
)
def test_what_is_installed_where(kind, wheels, unwanted, wheel):
    found = hosted.changes(BASE, EXTRAS[kind], wheels)
    assert found == (unwanted, [*BASE, *EXTRAS[kind]] if wheel else [])
    assert wheel is None or EXTRAS[kind][0] == wheel


def test_a_machine_of_ones_own_keeps_its_tensorflow(tmp_path, monkeypatch):
    wheels = {"tensorflow-cpu": "2.20.0"}
    assert hosted.changes(BASE, EXTRAS["tpu"], wheels, keep_wheel=True) == ([], [])
    text = '[project]\ndependencies = []\n[project.optional-dependencies]\ncpu = ["tensorflow==9"]'
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(cells.CommandError, match=r"expected tensorflow==9\. Received: tensorflow-"):
        hosted.install(tmp_path, "cpu")


def test_a_missing_package_leaves_tensorflow_as_it_is():
    wanted = [*BASE, "no-such-package-of-ours>=1"]
    found = hosted.changes(wanted, EXTRAS["cpu"], {"tensorflow": "2.20.0"})
    assert found == ([], [*wanted, "tensorflow==2.20.0"])


def test_nothing_is_installed_where_all_is_there(capfd):
    hosted.install(ROOT, "cpu")
    hosted.install(ROOT / "docs", "cpu")
    assert capfd.readouterr().out == ""


def test_places_and_folders(monkeypatch):
    assert hosted.place({}) == "a machine of your own"
    assert hosted.place({"COLAB_RELEASE_TAG": "r"}) == "Colab"
    assert hosted.place({"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}) == "Kaggle"
    assert hosted.folders(None, "demo") == ("runs/demo", "runs/demo")
    assert hosted.folders("here", "demo") == ("here", "here")
    assert hosted.folders("gs://bucket/run", "demo") == ("gs://bucket/run", "runs/demo")
    drive = "/content/drive/MyDrive/run"
    assert hosted.folders(drive, "demo") == (drive, "runs/demo")


def test_a_tpu_that_does_not_answer_is_told_and_left_out(monkeypatch, capfd):
    assert set(hosted.TPU_VARIABLES) == set(tpu.VARIABLES)
    monkeypatch.setenv("COLAB_TPU_ADDR", "127.0.0.1:9")
    assert hosted.accelerator() == "tpu"
    assert hosted.find_device() == []
    out = capfd.readouterr().out
    assert "--tpu grpc://127.0.0.1:9: no TPU answers" in out
    assert "going on without it" in out
    assert re.search(r"replica, 1 host, \w+, TensorFlow", out.splitlines()[-1])


def test_versions_are_shown(capfd):
    hosted.prepare()
    assert f"keras {importlib.metadata.version('keras')}" in capfd.readouterr().out
