"""`itm-fast train`: SCAN's flags, presets, resuming after a kill, bad input in one line."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from itm_fast.cli import main as cli
from itm_fast.cli.signals import signals_unwind
from itm_fast.cli.train import parse
from itm_fast.data import Vocabulary, make_data
from itm_fast.errors import DataError
from itm_fast.training.objective import Objective
from itm_fast.training.run import RunSettings

DIM = 12


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_data(folder / "f8k_precomp", n_train=30, n_dev=6, n_test=6, max_regions=5, dim=DIM)
    return folder


def flags(data, *more):
    """SCAN's own spelling."""
    return [
        "scan",
        *("--data_path", str(data), "--data_name", "f8k_precomp", "--tokenizer", "split"),
        *("--img_dim", str(DIM), "--word_dim", "8", "--embed_size", "16", "--batch_size", "30", "--num_epochs", "2"),
        *("--max_violation", "--bi_gru", "--agg_func=LogSumExp", "--cross_attn=t2i", "--lambda_lse=6"),
        *("--lambda_softmax=9", "--raw_feature_norm=clipped_l2norm", "--learning_rate=.001", "--lr_update=1"),
        *("--log_step=2", "--val_step=3", "--grad_clip=2", "--margin=.2", "--workers=0", "--trackers", *more),
    ]


def train(*arguments):
    return cli.main(["train", *map(str, arguments)])


def test_trains_evaluates_and_goes_on(data, tmp_path, capsys):
    run = tmp_path / "run"
    assert train(*flags(data, "--model_name", str(run), "--json")) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["steps"], result["folder"]) == (10, str(run))
    assert result["best"]["rsum"] > 0
    assert {path.name for path in run.iterdir()} == {"best", "checkpoint.pt", "log.jsonl", "train.json"}
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "validation"] == [3, 5, 6, 9, 10]
    model = ["--model", str(run / "best"), "--data", str(data / "f8k_precomp"), "--tokenizer", "split", "--json"]
    assert cli.main(["evaluate", *model]) == 0
    assert json.loads(capsys.readouterr().out)["rsum"] > 0
    assert train("vsepp", "--resume", run) == 2
    assert f"{run} holds a run of scan, not of vsepp" in capsys.readouterr().err
    assert train("scan", "--resume", run, "--num_epochs", 3) == 0  # everything else as the run has it
    assert "15 steps" in capsys.readouterr().out
    assert json.loads((run / "train.json").read_text())["training"]["num_epochs"] == 3


def test_settings_survive_their_file(data, tmp_path):
    parsed = parse(["esl", "--preset", "coco-h", "--sam", "--data_percent", "10", "--vocab_path", str(data)])
    parsed.settings.save(tmp_path / "train.json")
    assert RunSettings.load(tmp_path / "train.json") == parsed.settings
    assert (parsed.settings.training.num_epochs, parsed.settings.model_config.heuristic_strategy) == (20, True)
    (tmp_path / "train.json").write_text('{"model": "esl"}')
    with pytest.raises(DataError, match=r"train\.json: not the settings of a run"):
        RunSettings.load(tmp_path / "train.json")


def test_settings_of_numpy_survive_their_file(data, tmp_path):
    settings = parse(["scan", "--data_path", str(data / "f8k_precomp")]).settings
    training = replace(settings.training, num_epochs=np.int64(3), size_augment=np.bool_(True))
    replace(settings, training=training, sam=replace(settings.sam, sam=1)).save(tmp_path / "train.json")
    loaded = RunSettings.load(tmp_path / "train.json")
    assert loaded.training == replace(settings.training, num_epochs=3, size_augment=True)
    assert loaded.sam.sam is True


@pytest.mark.parametrize(
    ("part", "name"), [("sam", "sam"), ("training", "size_augment"), ("data", "drop_blank"), ("model_config", "bi_gru")]
)
def test_a_switch_that_is_a_text_is_refused(data, tmp_path, part, name):
    """A text such as "false" was on."""
    parse(["scan", "--data_path", str(data / "f8k_precomp")]).settings.save(tmp_path / "train.json")
    written = json.loads((tmp_path / "train.json").read_text())
    written[part][name] = "false"
    (tmp_path / "train.json").write_text(json.dumps(written))
    with pytest.raises(DataError, match=f"train.json: not the settings of a run: {name} must be True or False, got 'f"):
        RunSettings.load(tmp_path / "train.json")


KILLED = """
import os, signal, sys
from itm_fast.cli import main

replace, n_saved, written = os.replace, 0, sys.argv[1] == "written"

def replace_and_die(aside, path):
    global n_saved
    n_saved += os.path.basename(path) == "checkpoint.pt"
    if n_saved < 7 or written:
        replace(aside, path)
    if n_saved == 7:
        os.kill(os.getpid(), signal.SIGKILL)

os.replace = replace_and_die
sys.exit(main.main(sys.argv[2:]))
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_nothing_had_happened(data, tmp_path):
    """kill -9 before a checkpoint has its name, and right after; the losses are those of a run that was left alone."""

    def losses(folder):
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        return {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    more = ["--num_epochs", "4", "--save_step", "1", "--log_step", "1", "--val_step", "1000"]
    assert train(*flags(data, "--model_name", str(whole), *more)) == 0
    begun = ["train", *flags(data, "--model_name", str(killed), *more)]
    for arguments, moment, step in ((begun, "aside", 6), (["train", "--resume", str(killed)], "written", 13)):
        command = [sys.executable, "-c", KILLED, moment, *arguments]
        assert subprocess.run(command, stderr=subprocess.DEVNULL).returncode == -signal.SIGKILL
        assert torch.load(killed / "checkpoint.pt", weights_only=True)["state"]["step"] == step
    assert train("--resume", killed) == 0
    assert losses(killed) == losses(whole)
    states = [torch.load(folder / "checkpoint.pt", weights_only=True)["state"]["model"] for folder in (whole, killed)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not [path for path in killed.iterdir() if path.name.startswith(".") and "checkpoint" not in path.name]


@pytest.fixture
def signals_of_a_command():
    """As a process of `itm-fast` has them; those of the tests come back."""
    names = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    before = {number: signal.signal(number, signal.default_int_handler) for number in names}
    with signals_unwind():
        yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals_of_a_command")
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_stopped_run_says_what_goes_on_with_it(data, tmp_path, monkeypatch, capsys, name, code):
    """The third step is done when the signal that came within it is heeded; the command as printed does the rest."""
    more = ["--log_step", "1", "--save_step", "100"]
    whole, stopped = tmp_path / "whole", tmp_path / "it stopped"
    assert train(*flags(data, "--model_name", str(whole), *more)) == 0
    forward, steps = Objective.forward, []

    def stopping(self, batch):
        steps.append(batch)
        if len(steps) == 3:
            os.kill(os.getpid(), getattr(signal, name))
        return forward(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Objective, "forward", stopping)
        assert train(*flags(data, "--model_name", str(stopped), *more)) == code
    *_, said, last = capsys.readouterr().err.splitlines()
    assert last == "itm-fast: error: interrupted"
    assert said.startswith("itm-fast: stopped after step 3 of 10, whose checkpoint is kept; go on with: itm-fast train")
    assert cli.main(shlex.split(said.partition("go on with: itm-fast ")[2])) == 0
    one, other = (torch.load(folder / "checkpoint.pt", weights_only=True)["state"] for folder in (whole, stopped))
    assert all(torch.equal(value, other["model"][key]) for key, value in one["model"].items())
    assert one["best"] == other["best"]


def test_progress_has_the_loss_and_the_last_validation(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("itm_fast.cli.console._SECONDS_BETWEEN_LINES", 0)
    run = tmp_path / "run"
    assert train(*flags(data, "--model_name", str(run), "--log_step", "1", "--num_epochs", "1")) == 0
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    rsums = {line["step"]: line["rsum"] for line in lines if line["kind"] == "validation"}
    assert list(rsums) == [3, 5]
    shown = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train scan: ")]
    assert [line.rpartition(", about ")[0] for line in shown] == [
        *(f"train scan: {20 * step} %, loss {losses[step - 1]:.4f}" for step in (1, 2)),
        *(f"train scan: {20 * step} %, loss {losses[step - 1]:.4f}, rsum {rsums[3]:.1f}" for step in (3, 4)),
        f"train scan: 100 %, loss {losses[4]:.4f}, rsum {rsums[5]:.1f}",
    ]
    assert train("--resume", run, "--num_epochs", "2") == 0
    shown = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train scan: ")]
    assert len(shown) == 5
    assert shown[0].startswith("train scan: 60 %, loss ")
    assert "rsum" in shown[0]


@pytest.mark.parametrize(
    ("more", "fragment"),
    [
        (["--img_dim", "13"], "are 12 wide, but img_dim is 13; give --img-dim 12"),
        (["--train_split", "nowhere"], "nowhere_ims.npy: no such file; splits present: dev, test, train"),
        (["--batch_size", "1000"], "batch_size is 1000, but the training split has only 150 captions"),
        (["--vocab_path", "/nowhere.json"], "/nowhere.json: no such file"),
        (
            ["--agg_func", "Median"],
            "--agg-func: invalid choice 'Median'; perhaps you meant Mean; expected one of LogSumExp, Max, Mean, Sum",
        ),
        (["--max_violations"], "--max_violations"),
        (["--device", "gpu"], "device is 'gpu'; expected \"auto\""),
        (["--data_percent", "0"], "data_percent must be above 0"),
        (["--grad_clip", "-1"], "grad_clip is -1; expected at least 0"),
        (["--learning-rate", "-0.1"], "learning_rate is -0.1; expected at least 0"),
        (["--weight-decay", "-0.1"], "weight_decay is -0.1; expected at least 0"),
        (["--bert-lr-factor", "-1"], "bert_lr_factor is -1; expected at least 0"),
        (["--backbone-lr-factor", "-1"], "backbone_lr_factor is -1; expected at least 0"),
        (["--sam", "--sam-weight", "-5"], "sam_weight is -5; expected at least 0"),
        (["--sam", "--sam-triplet-weight", "-1"], "sam_triplet_weight is -1; expected at least 0"),
    ],
)
def test_bad_input_is_one_line(data, tmp_path, capsys, more, fragment):
    assert train(*flags(data, "--model_name", str(tmp_path / "run"), *more)) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("itm-fast: error: ")
    assert errors.count("\n") == 1
    assert fragment in errors


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["clip"], "no model 'clip'; models: chan, cvse, esl"),
        (["scan", "--preset", "f8k"], "scan has no preset 'f8k'; presets: coco-i-t-avg"),
        (["--resume"], "--resume expects a value behind it"),
        (["scan", "--preset"], "--preset expects a value behind it"),
        (["--resume", "/nowhere"], "/nowhere/train.json: no such file; expected the folder of a run"),
    ],
)
def test_unknown_names(capsys, arguments, fragment):
    assert train(*arguments) == 2
    assert fragment in capsys.readouterr().err


def test_a_run_is_not_resumed_with_another_vocabulary_split_or_choice(data, tmp_path, capsys):
    run = tmp_path / "run"
    assert train(*flags(data, "--model_name", str(run), "--num_epochs", "1")) == 0
    Vocabulary(["<pad>", "<start>", "<end>", "<unk>", "a"]).save(tmp_path / "other.json")
    capsys.readouterr()
    assert train("--resume", run, "--vocab_path", tmp_path / "other.json") == 2
    errors = capsys.readouterr().err
    assert "vocabulary was '" in errors
    assert "but now is '5 words, sha256 " in errors
    assert train("--resume", run, "--tokenizer", "nltk") == 2
    assert "tokenizer was 'split', but now is 'nltk'" in capsys.readouterr().err
    for more, said in (
        (["--val_split", "test"], "val_split was 'dev', but now is 'test'"),
        (["--select", "nsum"], "select was 'rsum', but now is 'nsum'"),
        (["--margin", "0.3"], "checkpoint.pt: margin was 0.2, but now is 0.3"),
    ):
        assert train("--resume", run, *more) == 2
        assert said in capsys.readouterr().err
    assert train("--resume", run) == 0  # what was refused has changed nothing


@pytest.mark.parametrize("n_seen", [15, 16])
def test_a_validation_on_what_is_trained_on_is_said(data, tmp_path, capsys, n_seen):
    shutil.copytree(data / "f8k_precomp", tmp_path / "f8k_precomp")
    trained = (tmp_path / "f8k_precomp" / "train_caps.txt").read_text().splitlines(keepends=True)
    dev = (tmp_path / "f8k_precomp" / "dev_caps.txt").read_text().splitlines(keepends=True)
    assert not set(trained) & set(dev)
    (tmp_path / "f8k_precomp" / "dev_caps.txt").write_text("".join([*trained[:n_seen], *dev[n_seen:]]))
    assert train(*flags(tmp_path, "--model_name", tmp_path / "run", "--dry-run")) == 0
    said = "16 of 30 captions of split dev are in split train word for word: which model is the best"
    assert (said in capsys.readouterr().err) == (n_seen == 16)


@pytest.mark.parametrize(("percent", "said"), [("0.5", False), ("50", True), ("100", False)])
def test_a_share_of_the_captions_is_said(data, tmp_path, capsys, percent, said):
    """0.5 is half a percent, of which no batch can be made here."""
    code = train(*flags(data, "--model_name", tmp_path / "run", "--dry-run", "--data-percent", percent))
    assert code == (2 if percent == "0.5" else 0)
    assert ("itm-fast: 75 of 150 training captions: --data-percent 50\n" in capsys.readouterr().err) == said


def test_what_a_model_has_to_say_of_its_files(data, tmp_path, capsys):
    (tmp_path / "glove.txt").write_text("a 1 2 3 4 5 6 7 8\n")
    sizes = ["--img-dim", DIM, "--n-regions", 5, "--word-dim", 8, "--input-channel", 8, "--n-concepts", 9]
    more = ["--batch-size", 30, "--embed-size", 16, "--glove-path", tmp_path / "glove.txt", "--dry-run"]
    assert train("cvse", "--data-path", data / "f8k_precomp", *sizes, *more) == 0
    assert "glove.txt lacks 9 of 9 concepts, which begin from the mean" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_one_line(data, tmp_path, capsys):
    assert train(*flags(data, "--model_name", str(tmp_path), "--num_epochs", "1")) == 0
    whole = (tmp_path / "checkpoint.pt").read_bytes()
    (tmp_path / "checkpoint.pt").write_bytes(whole[: len(whole) // 2])
    capsys.readouterr()
    assert train("--resume", tmp_path) == 2
    errors = capsys.readouterr().err
    assert "checkpoint.pt: not a training state" in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("model", "given", "beside", "why"),
    [
        ("scan", "--sam_temperature=5 --sam-sampling random", "--sam", "without --sam"),
        ("cvse", "--cider-tokenizer ptb", "--select nsum", "without --sam or --select nsum"),
        ("scan", "--bert-path folder", "--text-encoder bert", "without --text-encoder bert or clip"),
        ("vse_infty", "--bert-lr-factor 0.2", "--text-enc-type bert", "without --text-encoder bert or clip"),
        ("vse_infty", "--text-enc-type bert", "", "beside --text-encoder"),
        ("scan", "--bi-gru", "--text-encoder bigru", "with --text-encoder bert, which brings its own"),
        ("chan", "--vocab-path words.json --tokenizer split", "--text-encoder bigru", "with --text-encoder bert"),
        ("scan", "--backbone-path vit", "--image-encoder patches", "without --image-encoder grid or patches"),
        ("esl", "--backbone-source wsl", "--precomp-enc-type backbone", "without --image-encoder grid"),
        ("laps", "--no-imagenet-pixels", "--image-encoder patches", "without --image-encoder patches"),
        ("sgraf", "--n-regions 40", "--image-encoder regions", "with --image-encoder patches"),
        ("scan", "--img-dim 12", "--image-encoder regions", "with --image-encoder patches"),
        ("vsrn", "--data-subset random", "--data-percent 50", "without --data-percent"),
        ("laps", "--lr-update 3", "--lr-schedules", "beside --lr-schedules"),
        ("vsepp", "--vse-mean-warmup-epochs 1", "--max-violation", "without --max-violation"),
        ("scan", "--lambda-lse 5", "--agg-func LogSumExp", "without --agg-func LogSumExp"),
        ("sgraf", "--sgr-step 2", "--module-name SGR", "without --module-name SGR"),
        ("chan", "--alpha 0.2", "--coding-type VSACoding", "without --coding-type VSACoding"),
        ("chan", "--belta 0.2", "--pooling-type SoftmaxPooling", "without LSEPooling or SoftmaxPooling"),
    ],
)
def test_flags_that_nothing_reads_are_said(data, model, given, beside, why):
    """They are read beside another flag, and there nothing is said."""
    others = {
        "--sgr-step": "--module-name SAF",
        "--lambda-lse": "--agg-func Mean",
        "--belta": "--pooling-type MaxPooling",
        "--lr-update": "--lr-schedules 4 6",
        "--bi-gru": "--text-encoder bert",
        "--vocab-path": "--text-encoder bert",
        "--n-regions": "--image-encoder patches",
        "--img-dim": "--image-encoder patches",
        "--text-enc-type": "--text-encoder bigru",
        "--no-imagenet-pixels": "--image-encoder regions",
    }
    start = [model, "--data_path", str(data), "--data_name", "f8k_precomp", *given.split()]
    (said,) = parse([*start, *others.get(start[5], "").split()]).notes
    names = [word.partition("=")[0].replace("_", "-") for word in given.split() if word.startswith("--")]
    assert said.startswith(f"WARNING: {', '.join(names)}: without effect {why}")
    assert parse([*start, *beside.split()]).notes == []


def test_a_preset_and_a_run_say_nothing_of_settings_that_nothing_reads(data, tmp_path, capsys):
    arguments = ["--data_path", str(data), "--data_name", "f8k_precomp"]
    assert parse(["laps", "--preset", "f30k-vit", *arguments]).notes == []
    assert train(*flags(data, "--model_name", tmp_path / "run", "--sam_weight", "3", "--dry-run")) == 0
    assert "itm-fast: WARNING: --sam-weight: without effect without --sam\n" in capsys.readouterr().err


def test_a_folder_that_holds_a_run_is_not_overwritten(data, tmp_path, capsys):
    assert train(*flags(data, "--model_name", str(tmp_path), "--num_epochs", "1")) == 0
    assert train(*flags(data, "--model_name", str(tmp_path))) == 2
    assert f"holds a run already: go on with --resume {tmp_path}" in capsys.readouterr().err


def test_help(capsys):
    assert train("--help") == 0
    assert "scan       coco-i-t-avg, coco-i-t-lse" in capsys.readouterr().out
    assert train("scan", "--help") == 0
    assert "--lambda-softmax" in capsys.readouterr().out
    assert train() == 2
