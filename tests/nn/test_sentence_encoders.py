"""Encoders of one vector, VSE-infinity's perceptron and VSRN's captioning head."""

import pytest
import torch
from golden_files import golden

from itm_fast.nn.decoders.captioning import CaptioningHead
from itm_fast.nn.encoders.gru import SentenceGRUEncoder
from itm_fast.nn.encoders.regions import MeanRegionEncoder, MLPRegionEncoder

TOKENS = torch.tensor([[1, 4, 5, 6, 2], [1, 5, 2, 0, 0], [1, 4, 4, 2, 0]])
COUNTS = torch.tensor([5, 3, 4])


@pytest.mark.parametrize("use_abs", [False, True])
def test_the_state_after_the_last_word(use_abs):
    torch.manual_seed(0)
    encoder = SentenceGRUEncoder(7, 4, 6, use_abs=use_abs).double()
    found = encoder(TOKENS, COUNTS)
    for tokens, count, embedding in zip(TOKENS, COUNTS, found, strict=True):
        state = encoder.rnn(encoder.embed(tokens[None, :count]))[0][0, -1]
        expected = state / state.norm()
        torch.testing.assert_close(embedding, expected.abs() if use_abs else expected)


def test_the_mean_of_the_regions():
    torch.manual_seed(0)
    images = torch.randn(3, 4, 5)
    encoder = MeanRegionEncoder(5, 6)
    expected = encoder.fc(images.mean(1))
    torch.testing.assert_close(encoder(images), expected / expected.norm(dim=1, keepdim=True))
    encoder.no_imgnorm, encoder.use_abs = True, True
    torch.testing.assert_close(encoder(images), expected.abs())
    assert encoder.fc.weight.abs().max() <= (6 / 11) ** 0.5
    assert not encoder.fc.bias.any()


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_perceptron_of_the_original(mode):
    arrays = golden("gpo.npz")
    weights = {n.removeprefix("mlp.sd."): torch.from_numpy(arrays[n]) for n in arrays.files if n.startswith("mlp.sd.")}
    (hidden, into), out = weights["layers.0.weight"].shape, len(weights["layers.1.weight"])
    perceptron = MLPRegionEncoder(into, out).mlp
    perceptron.layers[0], perceptron.bns[0] = torch.nn.Linear(into, hidden), torch.nn.BatchNorm1d(hidden)
    perceptron.layers[1] = torch.nn.Linear(hidden, out)  # the file's widths are not one the half of the other
    perceptron.load_state_dict(weights, strict=True)
    x = torch.from_numpy(arrays["mlp.x"])
    found = perceptron.double().train(mode == "train")(x.double().view(x.shape[0], -1, into))
    expected = torch.from_numpy(arrays[f"mlp.{mode}"]).double()
    torch.testing.assert_close(found.view_as(expected), expected, rtol=1e-9, atol=1e-9)


def plain_captioning(head, regions, tokens):
    """One image and caption at a time, word by word."""
    encoded, state = head.encoder(head.vid2hid(regions)[None])
    encoded, state = encoded[0], state[0, 0]
    loss = 0.0
    for step, word in enumerate(tokens):
        scores = torch.stack(
            [head.attend_score(torch.tanh(head.attend_region(e) + head.attend_state(state))) for e in encoded]
        )
        context = (scores.softmax(0) * encoded).sum(0)
        state = head.decoder(torch.cat([head.embedding(word), context])[None], state[None])[0]
        following = tokens[step + 1] if step + 1 < len(tokens) else torch.tensor(0)  # the padding after the end counts
        loss = loss - head.out(state).log_softmax(0)[following]
    return loss


def test_the_captioning_head():
    torch.manual_seed(0)
    head = CaptioningHead(6, 7, dim_hidden=5, dim_word=4).double().eval()
    regions = torch.randn(3, 4, 6, dtype=torch.float64)
    found = head(regions, TOKENS, COUNTS)
    expected = [plain_captioning(head, r, t[:n]) for r, t, n in zip(regions, TOKENS, COUNTS, strict=True)]
    torch.testing.assert_close(found, torch.stack(expected))
    padded = torch.nn.functional.pad(TOKENS, (0, 2), value=5)
    torch.testing.assert_close(head(regions, padded, COUNTS), found)


def test_a_long_caption_is_cut_and_keeps_its_end():
    torch.manual_seed(0)
    head = CaptioningHead(6, 7, dim_hidden=5, dim_word=4, max_len=4).eval()
    regions = torch.randn(3, 4, 6)
    cut = torch.tensor([[1, 4, 5, 2], [1, 5, 2, 0], [1, 4, 4, 2]])
    torch.testing.assert_close(head(regions, TOKENS, COUNTS), head(regions, cut, COUNTS.clamp(max=4)))


def test_regions_and_dropout_matter():
    torch.manual_seed(0)
    head = CaptioningHead(6, 7, dim_hidden=5, dim_word=4)
    regions = torch.randn(3, 4, 6, requires_grad=True)
    head(regions, TOKENS, COUNTS).sum().backward()
    assert regions.grad.abs().sum((1, 2)).gt(0).all()
    assert not torch.equal(head(regions, TOKENS, COUNTS), head(regions, TOKENS, COUNTS))
