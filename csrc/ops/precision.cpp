// torch.ops.itm_fast.tf32_allowed: torch's own switch for matrix products on CUDA, which its stable ABI doesn't tell.
#include "../cpu/libtorch.h"
#include "tensor.h"

namespace itm {

STABLE_TORCH_LIBRARY_FRAGMENT(itm_fast, m) { m.def("tf32_allowed() -> bool"); }
STABLE_TORCH_LIBRARY_IMPL(itm_fast, CompositeImplicitAutograd, m) { m.impl("tf32_allowed", TORCH_BOX(&tf32_allowed)); }

}  // namespace itm
