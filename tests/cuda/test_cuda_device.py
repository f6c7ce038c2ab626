"""What only a device can show: large shapes, streams, graphs, a second device, no waiting for the host."""

import pytest
import torch

import itm_fast
from itm_fast import metrics

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def batch(n_images, n_captions, dtype=torch.float32, dim=1024):
    generator = torch.Generator().manual_seed(n_images)
    regions = torch.nn.functional.normalize(torch.randn(n_images, 36, dim, generator=generator), dim=-1).to(dtype)
    words = torch.nn.functional.normalize(torch.randn(n_captions, 30, dim, generator=generator), dim=-1).to(dtype)
    return regions, words, torch.randint(5, 31, (n_captions,), generator=generator)


def on(device, *tensors):
    return [x.to(device) for x in tensors]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cross_attn", ["t2i", "i2t"])
def test_cuda_large_shapes_equal_the_cpu(cross_attn, dtype):
    inputs = batch(200, 600, dtype)
    want = itm_fast.cross_attention_similarity(*inputs, cross_attn=cross_attn)
    got = itm_fast.cross_attention_similarity(*on("cuda", *inputs), cross_attn=cross_attn)
    torch.testing.assert_close(got.cpu(), want, rtol=0, atol=2e-5)
    again = itm_fast.cross_attention_similarity(*on("cuda", *inputs), cross_attn=cross_attn)
    assert torch.equal(got, again)


def train(regions, words, counts):
    regions, words = regions.detach().requires_grad_(), words.detach().requires_grad_()
    loss = itm_fast.triplet_loss(itm_fast.cross_attention_similarity(regions, words, counts))
    return loss, *torch.autograd.grad(loss, (regions, words))


def test_cuda_training_step_equals_the_cpu_and_repeats():
    inputs = batch(128, 128)
    want, got, again = train(*inputs), train(*on("cuda", *inputs)), train(*on("cuda", *inputs))
    for cpu, cuda, second in zip(want, got, again, strict=True):
        torch.testing.assert_close(cuda.cpu(), cpu, rtol=1e-3, atol=1e-4)
        assert torch.equal(cuda, second)


def test_cuda_training_step_never_waits_for_the_device():
    inputs = on("cuda", *batch(16, 16, dim=64))
    train(*inputs)
    torch.cuda.set_sync_debug_mode("error")
    try:
        train(*inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_cuda_other_streams():
    inputs = on("cuda", *batch(32, 64, dim=256))
    want = itm_fast.cross_attention_similarity(*inputs)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        got = itm_fast.cross_attention_similarity(*inputs)
    stream.synchronize()
    assert torch.equal(got, want)


def test_cuda_graphs_capture_scores_and_losses():
    regions, words, counts = on("cuda", *batch(16, 16, dim=64))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        train(regions, words, counts)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = train(regions, words, counts)
    words.copy_(words.flip(0))
    counts.copy_(counts.flip(0))
    graph.replay()
    for got, want in zip(captured, train(regions, words, counts), strict=True):
        assert torch.equal(got, want)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device only")
def test_cuda_second_device():
    inputs = batch(16, 16, dim=64)
    want = itm_fast.cross_attention_similarity(*on("cuda:0", *inputs))
    got = itm_fast.cross_attention_similarity(*on("cuda:1", *inputs))
    assert got.device.index == 1
    assert torch.equal(got.cpu(), want.cpu())


def test_cuda_embeddings_are_ranked_where_they_are():
    generator = torch.Generator().manual_seed(0)
    images, captions = torch.randint(-3, 4, (500, 64), generator=generator), torch.randint(-3, 4, (2500, 64))
    pair = images.float(), captions.float()  # integers: both devices' products are exact, ties and all
    want, got = metrics.ranks(pair), metrics.ranks(tuple(on("cuda", *pair)))
    assert torch.equal(got.positives, want.positives)
    assert torch.equal(got.optimistic, want.optimistic)
    for expected, found in zip(itm_fast.topk(*pair, 10), itm_fast.topk(*on("cuda", *pair), 10), strict=True):
        assert torch.equal(found, expected)


def test_cuda_tiles_of_changing_devices_are_ranked_where_the_first_one_was():
    sims = torch.randint(0, 50, (40, 200), generator=torch.Generator().manual_seed(0)).float()

    class Changing:
        n_images, n_captions, calls = 40, 200, 0

        def __call__(self, rows, columns):
            self.calls += 1
            return sims[rows, columns].to("cpu" if self.calls % 2 else "cuda")

    want = itm_fast.topk(sims, k=7)
    for expected, found in zip(want, itm_fast.topk(Changing(), k=7, chunk_bytes=4000), strict=True):
        assert torch.equal(found, expected)
    want = metrics.ranks(sims, captions_per_image=5)
    assert torch.equal(metrics.ranks(Changing(), captions_per_image=5).positives, want.positives)


def test_cuda_tensors_of_two_devices_are_refused():
    regions, words, counts = batch(2, 2, dim=16)
    with pytest.raises(ValueError, match="same device"):
        itm_fast.cross_attention_similarity(regions.cuda(), words)
    with pytest.raises(ValueError, match="word_counts must be on the device"):
        itm_fast.cross_attention_similarity(regions.cuda(), words.cuda(), counts)
