"""SGR and SAF: the original's scores, gradients and running statistics; padding, blocks, what is refused."""

import copy

import pytest
import torch
from golden_files import golden

from itm_fast.nn.similarity import sgraf
from itm_fast.nn.similarity.sgraf import SGRAFSimilarity

KINDS = pytest.mark.parametrize("kind", ["SGR", "SAF"])


def loaded(arrays, kind, dtype=torch.float64):
    """The module with the golden file's weights."""
    embed_size, sim_dim = arrays["images"].shape[2], arrays[f"{kind}.sd.sim_eval_w.weight"].shape[1]
    module = SGRAFSimilarity(embed_size, sim_dim, module_name=kind, sgr_step=int(arrays["sgr_step"]), dropout=0)
    names = (name for name in arrays.files if name.startswith(f"{kind}.sd."))
    weights = {name.removeprefix(f"{kind}.sd."): torch.from_numpy(arrays[name]) for name in names}
    module.load_state_dict(weights, strict=True)
    return module.to(dtype)


@KINDS
@pytest.mark.parametrize("mode", ["eval", "train0"])
@pytest.mark.parametrize(
    # float32: scores of about 0.5; gradients above the noise of plain torch, as in the golden files' notes.
    ("dtype", "score_bound", "gradient_bound", "parameter_bound"),
    [(torch.float64, 1e-13, 6e-8, 5e-10), (torch.float32, 2e-6, 1e-4, 1e-3)],
)
def test_golden_vectors_of_the_original(kind, mode, dtype, score_bound, gradient_bound, parameter_bound):
    arrays = golden("sgraf_sim.npz")
    module = loaded(arrays, kind, dtype).train(mode == "train0")
    regions, words = (torch.from_numpy(arrays[name]).to(dtype).requires_grad_() for name in ("images", "captions"))
    sims = module(regions, words, torch.from_numpy(arrays["lens"]))
    prefix = f"{kind}.{mode}."
    torch.testing.assert_close(sims.double(), torch.from_numpy(arrays[f"{prefix}scores"]), rtol=0, atol=score_bound)
    (sims * torch.from_numpy(arrays["cot"]).to(dtype)).sum().backward()
    for name, found in (("dimages", regions.grad), ("dcaptions", words.grad)):
        want = torch.from_numpy(arrays[prefix + name]).double()
        assert (found - want).abs().max() <= gradient_bound * want.abs().max(), name
    parameters, largest = dict(module.named_parameters()), 0.0
    stored = [name for name in arrays.files if name.startswith(f"{prefix}dparam.")]
    assert len(stored) > 10
    largest = max(abs(arrays[name]).max() for name in stored)
    for name in stored:
        want = torch.from_numpy(arrays[name]).double()
        bound = 6e-8 if arrays[name].dtype.itemsize == 4 else 0.0  # the file's own accuracy
        found = parameters[name.removeprefix(f"{prefix}dparam.")].grad
        # Some are 0 in exact arithmetic (biases before a softmax or a batch normalisation): rounding is all they have.
        tolerance = max(bound, parameter_bound) * want.abs().max() + parameter_bound * 1e-2 * largest
        assert (found - want).abs().max() <= tolerance, name
    buffers = dict(module.named_buffers())
    after = [name for name in arrays.files if name.startswith(f"{prefix}after.")]
    assert bool(after) == module.training
    for name in after:
        found = buffers[name.removeprefix(f"{prefix}after.")]
        torch.testing.assert_close(found.double(), torch.from_numpy(arrays[name]).double(), rtol=score_bound, atol=1e-7)


def made(kind="SGR", n_images=3, n_captions=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    module = SGRAFSimilarity(16, 8, module_name=kind, n_regions=4, dropout=0).to(dtype)
    for parameter in module.parameters():  # biases that are not 0
        torch.nn.init.uniform_(parameter, -0.5, 0.5)
    regions = torch.randn(n_images, 4, 16, generator=generator, dtype=dtype)
    words = torch.randn(n_captions, 6, 16, generator=generator, dtype=dtype)
    counts = torch.tensor([6, 1, 3, 2, 3])[:n_captions]
    return module, torch.nn.functional.normalize(regions, dim=2), torch.nn.functional.normalize(words, dim=2), counts


@KINDS
def test_padding_is_not_read(kind):
    module, regions, words, counts = made(kind)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    want = module(regions, words, counts)
    for caption, count in enumerate(counts):
        words[caption, count:] = torch.nan
        alone = module(regions, words[caption : caption + 1, :count])
        torch.testing.assert_close(want[:, caption : caption + 1], alone, rtol=1e-12, atol=1e-12)
    words.requires_grad_()
    module.load_state_dict(state)
    sims = module(regions, words, counts)
    torch.testing.assert_close(sims, want, rtol=1e-12, atol=1e-12)
    sims.sum().backward()
    for caption, count in enumerate(counts):
        assert words.grad[caption, :count].any(dim=1).all()
        assert not words.grad[caption, count:].any()
    for name, parameter in module.named_parameters():  # every one has a gradient: DDP waits for each
        assert parameter.grad.isfinite().all(), name


@KINDS
def test_blocks_change_nothing(kind, monkeypatch):
    results = []
    for numbers in (1 << 22, 3 * 16 * 4, 1):  # a length at a time; two captions of two words; a caption
        monkeypatch.setattr(sgraf, "_LOCAL_NUMBERS", numbers)
        module, regions, words, counts = made(kind)
        regions.requires_grad_()
        sims = module(regions, words, counts)
        sims.sin().sum().backward()
        results.append([sims.detach(), regions.grad, *(p.grad for p in module.parameters()), *module.buffers()])
    for result in results[1:]:
        for found, want in zip(result, results[0], strict=True):
            torch.testing.assert_close(found, want, rtol=1e-10, atol=1e-12)


def test_running_statistics_count_every_caption_in_order():
    module, regions, words, counts = made("SAF")
    state = {name: value.clone() for name, value in module.state_dict().items()}
    module(regions, words, counts)
    together = {name: value.clone() for name, value in module.state_dict().items() if name.startswith("SAF_module")}
    assert int(together["SAF_module.bn.num_batches_tracked"]) == 5
    module.load_state_dict(state)
    for caption, count in enumerate(counts):
        module(regions, words[caption : caption + 1, :count])
    for name, want in together.items():
        torch.testing.assert_close(module.state_dict()[name], want, rtol=1e-12, atol=1e-12)


@KINDS
def test_a_training_step_counts_the_images_once(kind):
    module, regions, words, counts = made(kind)
    linear, norm, *_ = module.v_global_w.embedding_local
    alone = copy.deepcopy(norm)
    regions.requires_grad_()
    module(regions, words, counts).sum().backward()  # the backward pass makes the normalised regions again
    alone(linear(regions))
    for (name, found), want in zip(norm.named_buffers(), alone.buffers(), strict=True):
        torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12, msg=name)


@KINDS
def test_a_single_image_and_a_single_word(kind):
    module, regions, words, _ = made(kind)
    module.eval()
    assert module(regions[:1], words[:1, :1]).shape == (1, 1)
    both = module(regions, words[:, :1])
    torch.testing.assert_close(module(regions[:1], words[:1, :1]), both[:1, :1], rtol=1e-12, atol=1e-12)
    assert module(regions[:0], words).shape == (0, 5)
    assert module(regions, words[:0]).shape == (3, 0)


@KINDS
def test_gradients_are_those_of_finite_differences(kind):
    module, regions, words, counts = made(kind, n_captions=3)
    inputs = (regions.requires_grad_(), words.requires_grad_())
    assert torch.autograd.gradcheck(lambda r, w: module(r, w, counts), inputs, fast_mode=True)


@KINDS
def test_zero_rows_have_finite_gradients(kind):
    module, regions, words, counts = made(kind)
    regions[0], words[1, 0] = 0, 0
    regions.requires_grad_(), words.requires_grad_()
    module(regions, words, counts).sum().backward()
    assert regions.grad.isfinite().all()
    assert words.grad.isfinite().all()


def test_dropout_is_on_in_training_only():
    module, regions, words, counts = made()
    module.v_global_w.embedding_local[3].p = module.t_global_w.embedding_global[2].p = 0.4
    assert not torch.equal(module(regions, words, counts), module(regions, words, counts))
    module.eval()
    assert torch.equal(module(regions, words, counts), module(regions, words, counts))
    assert {m.p for m in SGRAFSimilarity(16, 8).modules() if isinstance(m, torch.nn.Dropout)} == {0.4}


def test_initialised_as_the_original():
    for name, parameter in SGRAFSimilarity(64, 32, module_name="SAF").named_parameters():
        if parameter.ndim == 2:
            bound = (6 / sum(parameter.shape)) ** 0.5
            assert 0.5 * bound < parameter.abs().max() <= bound, name
        else:
            assert (parameter == (name.endswith(("1.weight", "bn.weight")))).all(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes(dtype):
    module, regions, words, counts = made(dtype=dtype)
    sims = module(regions.requires_grad_(), words, counts)
    sims.sum().backward()
    assert sims.dtype == regions.grad.dtype == dtype
    assert regions.grad.isfinite().all()


@pytest.mark.parametrize(
    ("changed", "error", "fragment"),
    [
        ({"word_counts": torch.tensor([6, 0, 3, 2, 3])}, ValueError, r"word_counts\[1\] is 0; expected 1 to 6"),
        ({"word_counts": torch.tensor([6, 1, 7, 2, 3])}, ValueError, r"word_counts\[2\] is 7; expected 1 to 6"),
        ({"word_counts": torch.tensor([6, 1])}, ValueError, r"word_counts must have shape \(5,\)"),
        ({"regions": torch.zeros(3, 5, 16).double()}, ValueError, r"shape \(n_images, 4, 16\), got \(3, 5, 16\)"),
        ({"regions": torch.zeros(1, 4, 16).double()}, ValueError, "in training .* at least two"),
        ({"words": torch.zeros(5, 6, 16)}, TypeError, "must have the same dtype"),
    ],
)
def test_bad_input_is_named(changed, error, fragment):
    module, regions, words, counts = made()
    with pytest.raises(error, match=fragment):
        module(**{"regions": regions, "words": words, "word_counts": counts, **changed})


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"module_name": "AVE"}, "module_name must be one of 'SAF', 'SGR', got 'AVE'"),
        ({"sgr_step": 0}, "sgr_step must be at least 1, got 0"),
        ({"sim_dim": 0}, "sim_dim must be at least 1, got 0"),
    ],
)
def test_bad_options_are_named(options, fragment):
    with pytest.raises(ValueError, match=fragment):
        SGRAFSimilarity(**{"embed_size": 16, "sim_dim": 8, **options})
