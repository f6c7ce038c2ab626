// torch.ops.itm_fast.tf32_allowed: torch's own switch for matrix products on CUDA, which its stable ABI doesn't tell.
#include <ATen/Context.h>
#include <torch/library.h>

namespace itm {
namespace {

bool tf32_allowed() { return at::globalContext().allowTF32CuBLAS(); }

}  // namespace

TORCH_LIBRARY_FRAGMENT(itm_fast, m) { m.def("tf32_allowed() -> bool", &tf32_allowed); }

}  // namespace itm
