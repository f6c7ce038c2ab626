"""CHAN's checkpoints: a map that never runs, a row for the mask, a similarity that is in the options alone."""

import numpy as np
import pytest
import tiny_bert
import torch
from original_files import VOCABULARY, content_of, made, scores

from itm_fast.cli import main as cli
from itm_fast.data import make_data
from itm_fast.errors import DataError
from itm_fast.models import load_model, model_class, save_model
from itm_fast.originals import load_original

SIMILARITIES = [
    {"coding_type": "VHACoding", "pooling_type": "LSEPooling", "belta": 0.2},
    {"coding_type": "THACoding", "pooling_type": "MaxPooling"},
    {"coding_type": "VSACoding", "pooling_type": "SoftmaxPooling", "alpha": 0.3},
    {"coding_type": "VHACoding", "pooling_type": "MeanPooling"},
    {"coding_type": "VHACoding", "pooling_type": "SumPooling"},
]


@pytest.mark.parametrize("with_mask", [True, False])
@pytest.mark.parametrize("options", SIMILARITIES)
def test_round_trip(options, with_mask, tmp_path):
    model = made("chan", num_layers=2, max_violation=True, **options)
    content = content_of(model, vocab_size=len(VOCABULARY) + 1, word2idx={"a": 7, "<mask>": 9}, caption_loss=False)
    if "alpha" not in options:
        content["opt"].alpha = None  # as its parser leaves it
    if not with_mask:
        content["model"][1]["embed.weight"] = content["model"][1]["embed.weight"][:-1]
    content["model"][:2] = [{f"module.{key}": value for key, value in part.items()} for part in content["model"][:2]]
    torch.save(content, tmp_path / "model_best.pth")
    loaded = load_original(tmp_path / "model_best.pth", VOCABULARY)
    assert loaded.config == model.config
    assert loaded.notes == []
    torch.testing.assert_close(scores(loaded), scores(model), rtol=0, atol=0)
    save_model(loaded, tmp_path / "ours")
    torch.testing.assert_close(scores(load_model(tmp_path / "ours")), scores(model), rtol=0, atol=0)


def test_the_similarity_by_its_definition(tmp_path):
    model = made("chan")
    torch.save(content_of(model, coding_type="VHACoding", pooling_type="LSEPooling", belta=0.2), tmp_path / "m.pth")
    loaded = load_original(tmp_path / "m.pth", VOCABULARY)
    images = torch.randn(3, 7, 12, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        regions = torch.nn.functional.normalize(images @ model.img_enc.fc.weight.T + model.img_enc.fc.bias, dim=2)
        for column, row in enumerate(([1, 4, 8, 6, 2], [1, 5, 2])):
            words = model.txt_enc(torch.tensor([row]), torch.tensor([len(row)]))[0]
            best = (words @ regions.transpose(1, 2)).amax(2)
            want = (best / 0.2).exp().sum(1).log()
            torch.testing.assert_close(scores(loaded)[:, column], want, rtol=1e-5, atol=1e-6)


def test_word_pieces(tmp_path):
    pytest.importorskip("transformers")
    pieces = tiny_bert.word_pieces(["a dog runs", "two cats sleep"])
    torch.manual_seed(0)
    kind = model_class("chan")
    config = kind.config_class(text_enc_type="bert", bert_config=tiny_bert.config(pieces), img_dim=12, embed_size=8)
    model = kind(config, pieces).eval()
    content = content_of(model, text_enc_type="bert")
    torch.save(content, tmp_path / "model_best.pth")
    loaded = load_original(tmp_path / "model_best.pth", pieces)
    assert loaded.config.text_enc_type == "bert"
    with torch.no_grad():
        arguments = torch.tensor([[3, 14, 15, 4], [3, 16, 4, 0]]), torch.tensor([4, 3])
        torch.testing.assert_close(loaded.encode_captions(*arguments), model.encode_captions(*arguments))


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        (lambda c: c["model"][2].update(w=torch.zeros(1)), "its similarity has parameters, w; CHAN's has none"),
        (lambda c: c["model"][3].update(t=torch.zeros(1)), "its criterion has parameters, t"),
        (lambda c: c["model"][0].update({"feedforward.ln.weight": torch.ones(8)}), r"feedforward\.ln\.weight"),
        (lambda c: vars(c["opt"]).update(precomp_enc_type="selfattention"), "precomp_enc_type is 'selfattention'"),
        (lambda c: vars(c["opt"]).update(coding_type="VSACoding", alpha=None), "VSACoding needs option alpha"),
        (lambda c: vars(c["opt"]).update(coding_type="SomeCoding"), "coding_type must be one of"),
        (lambda c: vars(c["opt"]).pop("coding_type"), "of no model known here"),
        (lambda c: c["model"].pop(), "of no model known here"),
        (lambda c: c["model"][1].pop("rnn.bias_hh_l0"), r"its txt_enc does not fit: (.|\n)*rnn\.bias_hh_l0"),
        (lambda c: c["model"][1].update({"embed.weight": torch.zeros(12, 6)}), "a vocabulary of 11 words"),
    ],
)
def test_what_is_refused(change, fragment, tmp_path):
    content = content_of(made("chan"))
    change(content)
    torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(DataError, match=fragment):
        load_original(tmp_path / "bad.pth", VOCABULARY)


def test_itm_fast_evaluate_understands_it(tmp_path, capsys):
    make_data(tmp_path / "data", n_train=5, n_dev=1, n_test=4, max_regions=7, dim=12)
    VOCABULARY.save(tmp_path / "vocab.json")
    torch.save({**content_of(made("chan")), "noise": np.ones(3)}, tmp_path / "model_best.pth")
    command = ["evaluate", "--checkpoint", str(tmp_path / "model_best.pth"), "--vocab", str(tmp_path / "vocab.json")]
    assert cli.main([*command, "--data", str(tmp_path / "data"), "--tokenizer", "split", "--json"]) == 0
    assert '"rsum"' in capsys.readouterr().out
