// Matrix products by torch, and its switch for their precision.
#pragma once

#include "host.h"

namespace itm::cuda {

// out = a . b for matrices or batches of them, summed in float32 at least; out is float32 where a and b are 16-bit. By
// the operators' out variants, which autocast leaves alone.
void product_into(const Tensor& out, const Tensor& a, const Tensor& b);

// Whether torch may round float32 operands to TF32.
bool tf32_allowed();

}  // namespace itm::cuda
