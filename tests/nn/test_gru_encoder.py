"""Captions to word embeddings: SCAN's parameters, padding, order, both directions."""

import pytest
import torch

from itm_fast.nn.encoders.gru import GRUEncoder

TOKENS = torch.tensor([[1, 5, 2, 0, 0], [1, 6, 7, 8, 2], [1, 2, 0, 0, 0]])
WORD_COUNTS = torch.tensor([3, 5, 2])
BOTH = pytest.mark.parametrize("bi_gru", [False, True])


def encoder(bi_gru=False, **flags):
    torch.manual_seed(0)
    return GRUEncoder(9, 4, 6, bi_gru=bi_gru, **flags)


@BOTH
def test_state_dict_is_that_of_scan(bi_gru):
    shapes = {
        "rnn.weight_ih_l0": (18, 4),
        "rnn.weight_hh_l0": (18, 6),
        "rnn.bias_ih_l0": (18,),
        "rnn.bias_hh_l0": (18,),
    }
    if bi_gru:
        shapes |= {f"{name}_reverse": shape for name, shape in shapes.items()}
    shapes["embed.weight"] = (9, 4)
    assert {name: tuple(tensor.shape) for name, tensor in encoder(bi_gru).state_dict().items()} == shapes


def test_embedding_initialisation():
    weight = GRUEncoder(200, 50, 6).embed.weight
    assert 0.095 < weight.abs().max() <= 0.1
    assert weight.mean().abs() < 0.005


@BOTH
@pytest.mark.parametrize("no_txtnorm", [False, True])
def test_padding_is_exactly_zero_and_words_are_unit_vectors(bi_gru, no_txtnorm):
    words = encoder(bi_gru, no_txtnorm=no_txtnorm)(TOKENS, WORD_COUNTS)
    valid = torch.arange(5) < WORD_COUNTS[:, None]
    assert words.shape == (3, 5, 6)
    assert (words[~valid] == 0).all()
    lengths = words.norm(dim=-1)[valid]
    assert torch.allclose(lengths, torch.ones_like(lengths), atol=1e-5) != no_txtnorm


@BOTH
def test_a_caption_does_not_depend_on_its_batch(bi_gru):
    encode = encoder(bi_gru)
    words = encode(TOKENS, WORD_COUNTS)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(encode(TOKENS[order], WORD_COUNTS[order]), words[order])
    for caption, n_words in enumerate(WORD_COUNTS):
        alone = encode(TOKENS[caption : caption + 1, :n_words], WORD_COUNTS[caption : caption + 1])
        torch.testing.assert_close(alone[0], words[caption, :n_words])


@BOTH
def test_tokens_beyond_the_count_are_not_read(bi_gru):
    encode = encoder(bi_gru)
    other = torch.where(TOKENS == 0, 3, TOKENS)
    torch.testing.assert_close(encode(other, WORD_COUNTS), encode(TOKENS, WORD_COUNTS), rtol=0, atol=0)


def test_a_batch_may_be_wider_than_its_longest_caption():
    wide = torch.nn.functional.pad(TOKENS, (0, 2))
    assert encoder()(wide, WORD_COUNTS).shape == (3, 7, 6)


def test_directions_are_averaged():
    encode = encoder(bi_gru=True, no_txtnorm=True)
    caption = TOKENS[1:2]  # fills the whole row
    both, _ = encode.rnn(encode.embed(caption))
    torch.testing.assert_close(encode(caption, WORD_COUNTS[1:2]), (both[..., :6] + both[..., 6:]) / 2)


@BOTH
def test_nan_gradients_of_the_padding_are_dropped(bi_gru):
    encode = encoder(bi_gru)
    encode(TOKENS, WORD_COUNTS)[..., 0].square().sqrt().sum().backward()  # NaN: a root at 0
    assert all(parameter.grad.isfinite().all() for parameter in encode.parameters())


@pytest.mark.compiled
def test_a_compiled_model_leaves_it_as_it_is():
    encode, graphs = encoder(), []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(lambda tokens, counts: encode(tokens * 1, counts) * 2, backend=keep)
    assert torch.equal(compiled(TOKENS, WORD_COUNTS), encode(TOKENS, WORD_COUNTS) * 2)
    for counts in ([5, 2, 1], [4, 4, 4]):
        compiled(TOKENS, torch.tensor(counts))
    assert len(graphs) == 2  # before and after, whatever the counts
