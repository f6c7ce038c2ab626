import pytest
import torch

from itm_fast.nn.linear import TileLinear


@pytest.mark.parametrize("shape", [(3, 200, 70), (5, 70), (0, 70)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_a_linear_layer(shape, dtype):
    torch.manual_seed(0)
    ours, plain = TileLinear(70, 40).to(dtype), torch.nn.Linear(70, 40).to(dtype)
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(shape, dtype=dtype)
    results = []
    for layer in (ours, plain):
        leaf = x.clone().requires_grad_()
        mapped = layer(leaf)
        mapped.sin().sum().backward()
        results.append((mapped.detach(), leaf.grad, layer.weight.grad, layer.bias.grad))
    for found, want in zip(*results, strict=True):
        # Sums of at most 600 numbers of about 1, each rounded.
        torch.testing.assert_close(found, want, rtol=0, atol=600 * torch.finfo(dtype).eps)


def test_a_second_derivative_is_refused():
    x = torch.randn(300, 8, requires_grad=True)
    (grad,) = torch.autograd.grad(TileLinear(8, 8)(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_torch_func_grad_is_that_of_autograd():
    torch.manual_seed(0)
    layer, x = TileLinear(8, 6), torch.randn(5, 8)
    (want,) = torch.autograd.grad(layer(x).sin().sum(), layer.weight)
    parameters = {name: value.detach() for name, value in layer.named_parameters()}
    found = torch.func.grad(lambda p: torch.func.functional_call(layer, p, x).sin().sum())(parameters)
    assert torch.equal(found["weight"], want)
