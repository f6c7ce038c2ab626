#include "products.h"

namespace itm::cuda {
namespace {

using torch::stable::detail::from;
using torch::stable::detail::to;

// The result is `out` once more: its handle is released.
template <size_t kSize>
void call(const char* op, const char* overload, std::array<StableIValue, kSize> stack) {
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(op, overload, stack.data(), TORCH_ABI_VERSION));
  (void)to<Tensor>(stack[0]);
}

}  // namespace

void product_into(const Tensor& out, const Tensor& a, const Tensor& b) {
  const char* op = a.dim() == 2 ? "aten::mm" : "aten::bmm";
  const ScalarType type = out.scalar_type();
  if (a.scalar_type() == type) return call<3>(op, "out", {from(a), from(b), from(out)});
  if (a.is_cuda()) return call<4>(op, "dtype_out", {from(a), from(b), from(type), from(out)});
  // Emulated: torch's CPU products round 16-bit results to 16 bits.
  return call<3>(op, "out", {from(torch::stable::to(a, type)), from(torch::stable::to(b, type)), from(out)});
}

bool tf32_allowed() {
  std::array<StableIValue, 1> stack{};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("itm_fast::tf32_allowed", "", stack.data(), TORCH_ABI_VERSION));
  return to<bool>(stack[0]);
}

}  // namespace itm::cuda
